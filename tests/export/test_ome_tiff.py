"""OME-TIFF: the label pyramid pixel by pixel, with its size and place."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tifffile

from wsi_pipeline.errors import OutputError
from wsi_pipeline.export.ome_tiff import write_ome_tiff
from wsi_pipeline.geometry import Affine2D, PixelGrid, Region, Resolution
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.stitching.ngff import MaskPyramid

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    slide = SlideInfo(
        path="slide.svs",
        name="slide",
        width=9000,
        height=9000,
        resolution=Resolution(0.25, 0.2),
        mpp_source="property",
        bounds=Region(0, 0, 9000, 9000),
        has_bounds=False,
        level_sizes=((9000, 9000),),
        reader="openslide",
        vendor="aperio",
        fingerprint="abc",
    )
    grid = PixelGrid(1100, 330, Affine2D(2.0, 2.0, 100.0, 60.0), 0.5)
    result = MaskPyramid.create(
        tmp_path_factory.mktemp("tiff") / "m.zarr",
        grid,
        chunk=64,
        shard=512,
        classes=[("Tumor", (200, 0, 0))],
        slide=slide,
    )
    instance = np.random.default_rng(0).integers(0, 2**31, (330, 1100), dtype=np.uint32)
    instance[:, :512] = 0
    for level in range(result.n_levels):
        for shard in result.shards(level):
            x0, y0, x1, y1 = result.shard_region(level, *shard)
            if level:
                result.build_shard(level, *shard)
            else:
                part = instance[y0:y1, x0:x1]
                result.write_shard(*shard, part, (part > 0).astype(np.uint8), None)
    return result


@pytest.fixture(scope="module")
def path(pyramid, tmp_path_factory):
    return write_ome_tiff(pyramid, tmp_path_factory.mktemp("tiff") / "masks.ome.tif")


def test_every_level_of_both_label_images_is_the_pyramids(pyramid, path):
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert tiff.is_bigtiff
        assert [s.name for s in tiff.series] == ["instance", "class"]
        for series, name, dtype in zip(tiff.series, ("instance", "class"), (np.uint32, np.uint8), strict=True):
            assert len(series.levels) == pyramid.n_levels == 3
            for level, image in enumerate(series.levels):
                width, height = pyramid.size(level)
                data = image.asarray()
                assert data.dtype == dtype
                np.testing.assert_array_equal(data, pyramid.read_labels(name, 0, 0, width, height, level))


def test_tiles_are_compressed_and_levels_are_sub_ifds(path):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert (page.tilewidth, page.tilelength) == (64, 64)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert len(page.subifds) == 2
        assert len(tiff.pages) == 2


def test_pixel_size_and_place_are_in_the_metadata(path):
    with tifffile.TiffFile(path) as tiff:
        pixels = ElementTree.fromstring(tiff.ome_metadata).findall(f".//{OME}Pixels")
    assert len(pixels) == 2
    for element in pixels:
        assert float(element.get("PhysicalSizeX")) == pytest.approx(0.5)
        assert float(element.get("PhysicalSizeY")) == pytest.approx(0.4)
        assert element.get("PhysicalSizeXUnit") == "µm"
        plane = element.find(f"{OME}Plane")
        assert float(plane.get("PositionX")) == pytest.approx((100 + 1 - 0.5) * 0.25)
        assert float(plane.get("PositionY")) == pytest.approx((60 + 1 - 0.5) * 0.2)


def test_same_bytes_for_any_number_of_threads(pyramid, path, tmp_path):
    other = write_ome_tiff(pyramid, tmp_path / "masks.ome.tif", workers=4)
    with tifffile.TiffFile(path) as one, tifffile.TiffFile(other) as two:
        assert one.pages[0].databytecounts == two.pages[0].databytecounts
        np.testing.assert_array_equal(one.asarray(series=0), two.asarray(series=0))
    assert [p.name for p in tmp_path.iterdir()] == ["masks.ome.tif"]


def test_missing_folder_is_one_clear_error(pyramid, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_ome_tiff(pyramid, tmp_path / "missing" / "masks.ome.tif")
