"""OME-Zarr 0.4 (Zarr v2) and 0.5 (Zarr v3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.errors import ResolutionError, SlideError
from wsi_pipeline.geometry import Affine2D, Resolution
from wsi_pipeline.slides.slide import open_slide

Writer = Callable[..., Path]
Pixels = Callable[..., np.ndarray]
Pyramid = Callable[[np.ndarray, int], list[np.ndarray]]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "tczyx"])
def test_every_level_gives_the_pixels_that_were_written(
    ngff: Writer, pixels: Pixels, pyramid_of: Pyramid, version: str, axes: str
) -> None:
    levels = pyramid_of(pixels(151, 103), 3)
    slide = open_slide(ngff(levels, version=version, axes=axes))
    assert slide.info.level_sizes == ((103, 151), (52, 76), (26, 38))
    assert (slide.info.reader, slide.info.vendor) == ("ngff", f"ome-zarr {version}")
    assert (slide.info.name, slide.info.mpp_source, slide.info.resolution) == ("slide", "ngff", Resolution(0.5, 0.5))
    for number, level in enumerate(levels):
        sx, sy = slide.level_scale(number)
        got = slide.read_grid(Affine2D(sx, sy, 5 * sx, 3 * sy), (level.shape[1] - 5, level.shape[0] - 3))
        assert np.array_equal(got, level[3:, 5:])


def test_sharded_arrays_are_read(ngff: Writer, pixels: Pixels) -> None:
    image = pixels(151, 103)
    assert np.array_equal(open_slide(ngff([image], shards=True)).read_grid(Affine2D(), (103, 151)), image)


def test_first_image_of_a_bioformats2raw_folder_is_the_slide(ngff: Writer, pixels: Pixels) -> None:
    image = pixels(60, 70)
    slide = open_slide(ngff([image], version="0.4", axes="tczyx", under="0"))
    assert np.array_equal(slide.read_grid(Affine2D(), (70, 60)), image)


def test_grey_image_is_repeated(ngff: Writer, pixels: Pixels) -> None:
    image = pixels(60, 70, 1)
    got = open_slide(ngff([image], axes="cyx")).read_grid(Affine2D(), (70, 60))
    assert np.array_equal(got, np.repeat(image, 3, axis=2))


@pytest.mark.parametrize(("unit", "mpp"), [("nanometer", 500), ("millimeter", 0.0005)])
def test_scale_counts_with_its_unit(ngff: Writer, pixels: Pixels, unit: str, mpp: float) -> None:
    assert open_slide(ngff([pixels(20, 20)], mpp=mpp, unit=unit)).info.resolution.x == pytest.approx(0.5)


def test_scale_without_a_unit_is_no_pixel_size(ngff: Writer, pixels: Pixels) -> None:
    path = ngff([pixels(20, 20)], unit=None)
    with pytest.raises(ResolutionError, match=r"does not state its µm per pixel.*--mpp"):
        open_slide(path)


def test_sixteen_bit_channels_are_refused(ngff: Writer, pixels: Pixels) -> None:
    with pytest.raises(SlideError, match="uint16"):
        open_slide(ngff([pixels(20, 20).astype(np.uint16)]))


def test_stack_is_refused(ngff: Writer, pixels: Pixels) -> None:
    path = ngff([pixels(20, 20, 1)], axes="cyx")
    metadata = json.loads((path / "zarr.json").read_text())
    for axis in metadata["attributes"]["ome"]["multiscales"][0]["axes"]:
        axis["name"] = {"y": "z", "c": "y"}.get(axis["name"], axis["name"])
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(SlideError, match=r"several planes \(z = 20\)"):
        open_slide(path)


def test_corrupt_chunk_fails_where_it_is_read_and_nowhere_else(ngff: Writer, pixels: Pixels) -> None:
    image = pixels(96, 64)
    path = ngff([image])
    (path / "0" / "c" / "0" / "1" / "1").write_bytes(b"no zstd frame")
    slide = open_slide(path)
    with pytest.raises(SlideError, match=r"slide\.ome\.zarr: cannot read the region x=40 y=50 w=10 h=10 of level 0"):
        slide.read_grid(Affine2D(1, 1, 40, 50), (10, 10))
    assert np.array_equal(slide.read_grid(Affine2D(), (32, 48)), image[:48, :32])


@pytest.mark.parametrize("broken", ["{", "{}", '{"zarr_format": 3, "node_type": "group", "attributes": {}}'])
def test_broken_metadata_is_one_clear_line(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "a.ome.zarr"
    path.mkdir()
    (path / "zarr.json").write_text(broken)
    with pytest.raises(SlideError, match=r"a\.ome\.zarr: is") as caught:
        open_slide(path, mpp=0.5)
    assert "\n" not in str(caught.value)
