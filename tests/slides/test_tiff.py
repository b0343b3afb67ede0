"""OME-TIFF and plain TIFF through tifffile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_pipeline.errors import ResolutionError, SlideError
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.slides import tiff_pages
from wsi_pipeline.slides.chunks import shared_cache
from wsi_pipeline.slides.resolution import Resolution
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.slides.tiff_reader import TiffReader

Writer = Callable[..., Path]
Pixels = Callable[..., np.ndarray]
Pyramid = Callable[[np.ndarray, int], list[np.ndarray]]


def whole(slide: Slide, level: int = 0) -> np.ndarray:
    sx, sy = slide.level_scale(level)
    return slide.read_grid(Affine2D(sx, sy, 0, 0), slide.info.level_sizes[level])


def test_ome_tiff_sub_ifd_pyramid_has_all_levels(ome_tiff: Writer, pixels: Pixels, pyramid_of: Pyramid) -> None:
    levels = pyramid_of(pixels(301, 203), 3)
    slide = open_slide(ome_tiff(levels))
    assert slide.info.level_sizes == ((203, 301), (102, 151), (51, 76))
    assert (slide.info.reader, slide.info.vendor, slide.info.mpp_source) == ("tiff", "ome-tiff", "property")
    assert slide.info.resolution == Resolution(0.5, 0.5)
    assert slide.info.name == "slide"
    for number, level in enumerate(levels):
        assert np.array_equal(whole(slide, number), level)


@pytest.mark.parametrize(("unit", "size"), [("nm", 250.0), ("mm", 0.00025), ("µm", 0.25)])
def test_ome_physical_size_counts_with_its_unit(ome_tiff: Writer, pixels: Pixels, unit: str, size: float) -> None:
    metadata = {f"PhysicalSize{a}{b}": v for a in "XY" for b, v in (("", size), ("Unit", unit))}
    slide = open_slide(ome_tiff([pixels(64, 64)], mpp=None, metadata=metadata))
    assert slide.info.resolution.x == pytest.approx(0.25)


def test_plain_tiff_pages_of_one_shape_are_a_pyramid(tiff: Writer, pixels: Pixels, pyramid_of: Pyramid) -> None:
    levels = pyramid_of(pixels(500, 333), 4)
    slide = open_slide(tiff(levels))
    assert slide.info.level_sizes == ((333, 500), (167, 250), (84, 125), (42, 63))
    assert slide.info.mpp_source == "tiff-tags"
    for number, level in enumerate(levels):
        assert np.array_equal(whole(slide, number), level)


def test_pages_of_other_proportions_are_associated_images(tmp_path: Path, pixels: Pixels) -> None:
    main, label = pixels(300, 200), pixels(60, 90, seed=1)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(main, tile=(64, 64), photometric="rgb", metadata=None)
        tif.write(label, tile=(64, 64), photometric="rgb", metadata=None)
    slide = open_slide(tmp_path / "a.tif", mpp=0.5)
    assert slide.info.level_sizes == ((200, 300),)
    assert len(slide.info.associated) == 1
    assert np.array_equal(slide.associated_image(slide.info.associated[0]), label)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw"},
        {"compression": "zstd"},
        {"tile": None, "rowsperstrip": 7},
        {"tile": None},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
    ids=str,
)
def test_lossless_layouts_give_the_pixels_that_were_written(tmp_path: Path, pixels: Pixels, options: dict) -> None:
    image = pixels(150, 130)
    opened = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    with tifffile.TiffWriter(tmp_path / "a.tif", **opened) as tif:
        tif.write(image, **({"tile": (64, 64), "photometric": "rgb"} | options))
    assert np.array_equal(whole(open_slide(tmp_path / "a.tif", mpp=0.5)), image)


def test_planar_rgb_is_interleaved(tmp_path: Path, pixels: Pixels) -> None:
    image = pixels(150, 130)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.tif", planes, tile=(64, 64), photometric="rgb", planarconfig="separate")
    assert np.array_equal(whole(open_slide(tmp_path / "a.tif", mpp=0.5)), image)


def test_three_pages_of_ome_channels_are_red_green_blue(tmp_path: Path, pixels: Pixels) -> None:
    image = pixels(150, 130)
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", image.transpose(2, 0, 1), tile=(64, 64), photometric="minisblack", metadata=metadata
    )
    slide = open_slide(tmp_path / "a.ome.tif")
    assert np.array_equal(whole(slide), image)
    assert "taken as red, green and blue" in slide.info.warnings[0]


def test_grey_is_repeated_and_inverted_grey_turned(tmp_path: Path, pixels: Pixels) -> None:
    image = pixels(100, 100, 1)[..., 0]
    for photometric, expected in (("minisblack", image), ("miniswhite", 255 - image)):
        tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric=photometric)
        slide = open_slide(tmp_path / "a.tif", mpp=0.5)
        assert np.array_equal(whole(slide), np.repeat(expected[..., None], 3, axis=2))
        assert "grey" in slide.info.warnings[0]


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 4), np.uint8)
    image[:, 32:, 3] = 255
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb", extrasamples=["unassalpha"])
    got = whole(open_slide(tmp_path / "a.tif", mpp=0.5))
    assert np.all(got[:, :32] == 255)
    assert np.all(got[:, 32:] == 0)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 4), np.uint8)
    image[:, :20, 0] = 255  # cyan
    image[:, 20:40, 3] = 255  # black
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="separated")
    got = whole(open_slide(tmp_path / "a.tif", mpp=0.5))
    assert got[0, 0].tolist() == [0, 255, 255]
    assert got[0, 30].tolist() == [0, 0, 0]
    assert got[0, 60].tolist() == [255, 255, 255]


def test_palette_is_looked_up(tmp_path: Path, pixels: Pixels) -> None:
    image = pixels(64, 64, 1)[..., 0]
    palette = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="palette", colormap=palette << 8)
    assert np.array_equal(whole(open_slide(tmp_path / "a.tif", mpp=0.5)), palette[:, image].transpose(1, 2, 0))


def test_sixteen_bit_rgb_drops_the_low_byte(tiff: Writer, pixels: Pixels) -> None:
    image = pixels(64, 80)
    slide = open_slide(tiff([image.astype(np.uint16) * 256 + 99]))
    assert np.array_equal(whole(slide), image)
    assert "16-bit" in slide.info.warnings[0]


def test_sixteen_bit_grey_is_refused_with_what_to_do(tiff: Writer) -> None:
    path = tiff([np.zeros((64, 64), np.uint16)], photometric="minisblack")
    with pytest.raises(SlideError, match=r"stores grey uint16 pixels\. Convert it to 8 bits"):
        open_slide(path)


def test_five_channels_are_refused(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 5), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="minisblack", planarconfig="contig")
    with pytest.raises(SlideError, match="has 5 channels"):
        open_slide(tmp_path / "a.tif", mpp=0.5)


def test_stack_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb")
    with pytest.raises(SlideError, match="holds 4 images"):
        open_slide(tmp_path / "a.tif", mpp=0.5)


def test_tile_that_was_never_written_is_white(tiff: Writer, pixels: Pixels) -> None:
    path = tiff([pixels(128, 128)])
    with tifffile.TiffFile(path, mode="r+") as tif:
        counts = tif.pages[0].tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    assert np.all(open_slide(path).read_grid(Affine2D(), (64, 64)) == 255)


def corrupt_tile(path: Path, index: int) -> None:
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x13" * count
    path.write_bytes(data)


@pytest.mark.parametrize("compression", ["zlib", "jpeg", "zstd"])
def test_corrupt_tile_fails_where_it_is_read_and_nowhere_else(tiff: Writer, pixels: Pixels, compression: str) -> None:
    image = pixels(192, 192)
    path = tiff([image], compression=compression)
    corrupt_tile(path, 4)
    slide = open_slide(path)
    for _ in range(2):
        with pytest.raises(SlideError, match=r"slide\.tif: cannot read the region x=70 y=70 w=20 h=20 of level 0"):
            slide.read_grid(Affine2D(1, 1, 70, 70), (20, 20))
        assert slide.read_grid(Affine2D(1, 1, 128, 0), (64, 64)).shape == (64, 64, 3)


def test_truncated_pixels_fail_where_they_are_missing(tiff: Writer, pixels: Pixels) -> None:
    path = tiff([pixels(192, 192)])
    path.write_bytes(path.read_bytes()[:-2000])
    slide = open_slide(path)
    slide.read_grid(Affine2D(), (64, 64))
    with pytest.raises(SlideError, match="the file ends 2000 bytes too early"):
        slide.read_grid(Affine2D(1, 1, 128, 128), (64, 64))


def test_damaged_directory_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0\x08\0\0\0" + b"\xff" * 200)
    with pytest.raises(SlideError, match=r"a\.tif: is no readable TIFF") as caught:
        open_slide(path, mpp=0.5)
    assert "\n" not in str(caught.value)


def test_overlapping_reads_decode_a_tile_once(
    ome_tiff: Writer, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[int, int]] = []
    segment = tiff_pages.TiffLevel.segment

    def counted(self: tiff_pages.TiffLevel, file: object, row: int, col: int) -> np.ndarray:
        decoded.append((row, col))
        return segment(self, file, row, col)  # type: ignore[arg-type]

    monkeypatch.setattr(tiff_pages.TiffLevel, "segment", counted)
    slide = open_slide(ome_tiff([pixels(256, 256)]))
    for x in range(0, 200, 20):
        slide.read_grid(Affine2D(1, 1, x, 0), (56, 64))
    assert sorted(decoded) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_closing_frees_the_chunks(ome_tiff: Writer, pixels: Pixels) -> None:
    before = shared_cache().nbytes
    with open_slide(ome_tiff([pixels(256, 256)])) as slide:
        slide.read_grid(Affine2D(), (256, 256))
        assert shared_cache().nbytes > before
    assert shared_cache().nbytes == before


def test_large_uncompressed_strip_is_mapped_not_read(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_pages, "MAPPED_FROM", 1000)
    image = pixels(150, 130)
    for number, (data, options) in enumerate(
        [
            (image, {}),
            (np.ascontiguousarray(image.transpose(2, 0, 1)), {"planarconfig": "separate"}),
            (image.astype(np.uint16) << 8, {"byteorder": ">"}),
        ]
    ):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, data, photometric="rgb", **options)
        reader = TiffReader(path)
        assert reader._pixels._levels[0].is_mapped
        assert np.array_equal(reader.read(0, 20, 30, 50, 60), image[30:90, 20:70])


def test_compressed_image_in_one_huge_piece_is_refused(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_pages, "MAPPED_FROM", 1000)
    monkeypatch.setattr(tiff_pages, "MAX_SEGMENT_BYTES", 2000)
    tifffile.imwrite(tmp_path / "a.tif", pixels(150, 130), photometric="rgb", compression="zlib", rowsperstrip=150)
    with pytest.raises(SlideError, match=r"is one piece of 130 x 150 px\. Convert it to a tiled"):
        open_slide(tmp_path / "a.tif", mpp=0.5)


def test_print_resolution_is_no_pixel_size(tiff: Writer, pixels: Pixels) -> None:
    path = tiff([pixels(64, 64)], mpp=None, resolution=(72, 72), resolutionunit="INCH")
    with pytest.raises(ResolutionError, match=r"72 px per inch means 352.8 µm/px.*--mpp"):
        open_slide(path)
    assert open_slide(path, mpp=0.5).info.mpp_source == "user"


def test_absurd_physical_size_is_an_error_and_the_user_can_overrule_it(ome_tiff: Writer, pixels: Pixels) -> None:
    path = ome_tiff([pixels(64, 64)], mpp=500.0)
    with pytest.raises(ResolutionError, match=r"OME PhysicalSizeX of 500 µm means 500 µm/px, out of 0\.05 … 20"):
        open_slide(path)
    assert open_slide(path, mpp=0.5).info.resolution == Resolution(0.5, 0.5)


def test_one_pixel_slide_works(ome_tiff: Writer, pixels: Pixels) -> None:
    image = pixels(1, 1)
    slide = open_slide(ome_tiff([image], tile=None))
    assert np.array_equal(slide.thumbnail(512).image, image)
    assert np.array_equal(slide.read_grid(Affine2D(1, 1, -1, -1), (3, 3))[1, 1], image[0, 0])
