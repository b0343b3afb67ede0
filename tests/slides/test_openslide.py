"""What goes through OpenSlide, on a real Aperio slide and on generic TIFF."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_pipeline.errors import ResolutionError, SlideError
from wsi_pipeline.geometry import Affine2D, Region, Resolution
from wsi_pipeline.slides import openslide_reader
from wsi_pipeline.slides.base import ReaderFacts
from wsi_pipeline.slides.openslide_reader import OpenSlideReader, bounds_of, claims_of
from wsi_pipeline.slides.resolution import resolve_mpp
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.slides.tiff_reader import plain_tiles

Writer = Callable[..., Path]
Pixels = Callable[..., np.ndarray]


def test_facts_of_an_aperio_slide(cmu: Path) -> None:
    info = open_slide(cmu).info
    assert (info.name, info.reader, info.vendor) == ("CMU-1-Small-Region", "openslide", "aperio")
    assert (info.width, info.height, info.level_sizes) == (2220, 2967, ((2220, 2967),))
    assert (info.resolution, info.mpp_source) == (Resolution(0.499, 0.499), "property")
    assert (info.bounds, info.has_bounds) == (Region(0, 0, 2220, 2967), False)
    assert info.associated == ("label", "macro", "thumbnail")


def test_pixels_are_those_of_openslide(cmu: Path) -> None:
    plain = np.asarray(openslide.OpenSlide(cmu).read_region((901, 1203), 0, (700, 500)).convert("RGB"))
    assert np.array_equal(open_slide(cmu).read_grid(Affine2D(1, 1, 901, 1203), (700, 500)), plain)


def test_tiles_decoded_directly_and_through_openslide_are_the_same(cmu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = OpenSlideReader(cmu)
    monkeypatch.setattr(openslide_reader, "plain_tiles", lambda path, facts: None)
    composed = OpenSlideReader(cmu)
    assert direct._tiles is not None
    assert composed._tiles is None
    window = (0, 1000, 1500, 900, 800)
    assert np.array_equal(direct.read(*window), composed.read(*window))


def test_tiles_are_decoded_directly_only_if_all_are_stored_and_are_jpeg(tiff: Writer, pixels: Pixels) -> None:
    facts = ReaderFacts("openslide", "aperio", ((128, 128),))
    assert plain_tiles(tiff([pixels(128, 128)], name="a.tif", compression="jpeg"), facts) is not None
    assert plain_tiles(tiff([pixels(128, 128)], name="b.tif", compression="zlib"), facts) is None
    assert plain_tiles(tiff([pixels(128, 129)], name="c.tif", compression="jpeg"), facts) is None
    sparse = tiff([pixels(128, 128)], name="d.tif", compression="jpeg")
    with tifffile.TiffFile(sparse, mode="r+") as tif:
        counts = tif.pages[0].tags["TileByteCounts"]
        counts.overwrite([*counts.value[:-1], 0])
    assert plain_tiles(sparse, facts) is None


def test_associated_images(cmu: Path) -> None:
    slide = open_slide(cmu)
    assert slide.associated_image("label").shape == (463, 387, 3)
    assert slide.associated_image("macro").shape == (431, 1280, 3)


def test_truncated_svs_is_one_clear_line(cmu: Path, tmp_path: Path) -> None:
    data = cmu.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path = tmp_path / f"{share}.svs"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(SlideError, match="truncated") as caught:
            open_slide(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.fixture
def jpeg_pyramid(tiff: Writer) -> Path:
    """A smooth image with a level whose downsample is no whole number."""
    y, x = np.mgrid[0:700, 0:900]
    image = np.stack([x % 251, y % 241, (x + y) % 239], axis=2).astype(np.uint8)
    return tiff([image, np.ascontiguousarray(image[::2, ::2][:349, :449])], tile=(256, 256))


def test_a_pixel_of_a_fractional_level_has_one_value_whatever_the_window(jpeg_pyramid: Path) -> None:
    reader = OpenSlideReader(jpeg_pyramid)
    assert not reader._downsamples[1].is_integer()
    whole = reader.read(1, 0, 0, 449, 349)
    for x, y in ((1, 0), (77, 130), (201, 99)):
        assert np.array_equal(reader.read(1, x, y, 200, 150), whole[y : y + 150, x : x + 200])


def damage(path: Path, index: int) -> None:
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x13" * count
    path.write_bytes(data)


def test_handle_survives_a_damaged_tile(tiff: Writer, pixels: Pixels) -> None:
    path = tiff([pixels(512, 512)], tile=(256, 256), compression="jpeg")
    damage(path, 3)
    reader = OpenSlideReader(path)
    good = reader.read(0, 0, 0, 256, 256)
    with pytest.raises(SlideError, match=r"slide\.tif: cannot read the region x=256 y=256 w=256 h=256 of level 0"):
        reader.read(0, 300, 300, 50, 50)
    assert reader.read(0, 256, 0, 256, 256).shape == (256, 256, 3)
    assert np.array_equal(reader.read(0, 0, 0, 256, 256), good)


def test_threads_on_sound_tiles_do_not_suffer_from_a_damaged_one(tiff: Writer, pixels: Pixels) -> None:
    path = tiff([pixels(1024, 1024)], tile=(256, 256), compression="jpeg")
    sound = OpenSlideReader(path)
    windows = [(x, y) for x in range(0, 1024, 256) for y in range(0, 1024, 256)]
    expected = {(x, y): sound.read(0, x, y, 256, 256) for x, y in windows}
    damage(path, 0)
    reader = OpenSlideReader(path)

    def read(window: tuple[int, int]) -> np.ndarray | None:
        try:
            return reader._read_window(0, *window, 256, 256)
        except SlideError:
            return None

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(read, windows * 8))
    for window, image in zip(windows * 8, got, strict=True):
        if window == (0, 0):
            assert image is None
        else:
            assert image is not None
            assert np.array_equal(image, expected[window])


def test_bounds_need_all_four_properties() -> None:
    stated = {f"openslide.bounds-{k}": v for k, v in {"x": "10", "y": "20", "width": "300", "height": "400"}.items()}
    assert bounds_of(stated) == Region(10, 20, 300, 400)
    for key in stated:
        assert bounds_of({k: v for k, v in stated.items() if k != key}) is None


def test_property_goes_before_tags_and_tags_before_objective() -> None:
    stated = {
        "openslide.mpp-x": "0.25",
        "openslide.mpp-y": "0.26",
        "tiff.XResolution": "20000",
        "tiff.YResolution": "20000",
        "tiff.ResolutionUnit": "centimeter",
        "openslide.objective-power": "20",
    }
    assert [claim.source for claim in claims_of(stated)] == ["property", "tiff-tags", "objective"]
    assert resolve_mpp(claims_of(stated), user=None, where="a")[0] == Resolution(0.25, 0.26)
    del stated["openslide.mpp-x"], stated["openslide.mpp-y"]
    assert resolve_mpp(claims_of(stated), user=None, where="a")[:2] == (Resolution(0.5, 0.5), "tiff-tags")


def test_objective_power_is_a_guess_with_a_warning() -> None:
    resolution, source, warnings = resolve_mpp(
        claims_of({"openslide.objective-power": "40", "openslide.vendor": "aperio"}), user=None, where="a.svs"
    )
    assert (resolution, source) == (Resolution(0.25, 0.25), "objective")
    assert "guessed" in warnings[0]


def test_slide_without_any_statement_asks_for_mpp() -> None:
    with pytest.raises(ResolutionError, match=r"a\.svs: the slide does not state its µm per pixel\. Give .* --mpp"):
        resolve_mpp(claims_of({"openslide.vendor": "aperio"}), user=None, where="a.svs")
