from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.errors import GeoJSONError, WorkflowError
from wsi_pipeline.geometry import Affine2D, PixelGrid, Region
from wsi_pipeline.tissue.detect import find_tissue
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.tissue.outlines import outlines
from wsi_pipeline.tissue.own_mask import covered
from wsi_pipeline.workflow import TissueSettings

BOUNDS = Region(200, 100, 800, 400)


@pytest.fixture
def slide(slide_of):
    return slide_of(np.full((600, 1200, 3), 240, np.uint8), 1.0, bounds=BOUNDS)


def settings_of(path: Path | None) -> TissueSettings:
    return TissueSettings(method="mask", mask=path)


def half_mask(height: int = 20, width: int = 40) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


def collection(*features: dict, **members: object) -> dict:
    return {"type": "FeatureCollection", **members, "features": list(features)}


def area(geometry: shapely.Geometry, class_name: str | None = None, name: str | None = None) -> dict:
    properties: dict = {"objectType": "annotation"}
    if class_name:
        properties["classification"] = {"name": class_name, "color": [1, 2, 3]}
    if name:
        properties["name"] = name
    return {"type": "Feature", "geometry": json.loads(shapely.to_geojson(geometry)), "properties": properties}


def write(path: Path, data: dict) -> Path:
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("size", [(20, 40), (7, 13), (400, 800)])
def test_image_of_any_size_covers_the_bounds(slide, tmp_path, size) -> None:
    Image.fromarray(half_mask(*size)).save(tmp_path / "mask.png")
    found = find_tissue(slide, settings_of(tmp_path / "mask.png"))
    split = size[1] // 2 / size[1] * BOUNDS.width
    assert found.share_of(Region(200, 100, split, 400)) == pytest.approx(1)
    assert found.share_of(Region(200 + split, 100, 800 - split, 400)) == pytest.approx(0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_kind_of_png_is_read(slide, tmp_path, mode) -> None:
    mask = half_mask()
    if mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16) * 3)
    elif mode in ("RGBA", "LA"):
        image = Image.fromarray(np.full_like(mask, 200)).convert(mode)
        image.putalpha(Image.fromarray(mask))
    else:
        image = Image.fromarray(mask).convert(mode)
    image.save(tmp_path / "mask.png")
    found = find_tissue(slide, settings_of(tmp_path / "mask.png"))
    assert np.array_equal(found.tissue, mask > 0)


def test_image_of_another_slide_is_refused(slide, tmp_path) -> None:
    Image.fromarray(half_mask(30, 40)).save(tmp_path / "mask.png")
    with pytest.raises(WorkflowError, match="other proportions"):
        find_tissue(slide, settings_of(tmp_path / "mask.png"))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n0000"])
def test_unreadable_image_is_one_clear_line(slide, tmp_path, content) -> None:
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(WorkflowError, match="cannot be read") as caught:
        find_tissue(slide, settings_of(tmp_path / "mask.png"))
    assert str(tmp_path / "mask.png") in str(caught.value)


def test_missing_mask_is_refused(slide, tmp_path) -> None:
    with pytest.raises(WorkflowError, match="no such tissue mask"):
        find_tissue(slide, settings_of(tmp_path / "mask.png"))
    with pytest.raises(WorkflowError, match="needs a mask"):
        find_tissue(slide, settings_of(None))


def test_folder_holds_a_mask_per_slide(slide, tmp_path) -> None:
    with pytest.raises(WorkflowError, match="no tissue mask for memory"):
        find_tissue(slide, settings_of(tmp_path))
    Image.fromarray(half_mask()).save(tmp_path / "memory.png")
    assert find_tissue(slide, settings_of(tmp_path)).tissue.mean() == 0.5


def test_annotations_are_px_of_the_cropped_image_of_qupath(slide, tmp_path) -> None:
    path = write(tmp_path / "a.geojson", collection(area(shapely.box(80, 40, 240, 200), "Region*")))
    found = find_tissue(slide, settings_of(path))
    assert found.share_of(Region(280, 140, 160, 160)) == 1
    assert found.tissue.sum() == 160 * 160 / 64


def test_file_that_names_its_origin_is_believed(slide, tmp_path) -> None:
    data = collection(area(shapely.box(280, 140, 440, 300)), wsi_pipeline={"origin": "full"})
    found = find_tissue(slide, settings_of(write(tmp_path / "a.geojson", data)))
    assert found.share_of(Region(280, 140, 160, 160)) == 1


def test_regions_come_before_other_classes_and_artefacts_are_cut_out(slide, tmp_path) -> None:
    ring = shapely.box(0, 0, 400, 400).difference(shapely.box(80, 80, 160, 160))
    data = collection(
        area(ring, "Region*"),
        area(shapely.box(96, 96, 144, 144), "Region*"),
        area(shapely.box(600, 0, 800, 400), "Tumor"),
        area(shapely.box(200, 200, 280, 280), "Artefact*", "pen"),
    )
    found = find_tissue(slide, settings_of(write(tmp_path / "a.geojson", data)))
    expected = (400**2 - 80**2 + 48**2 - 80**2) / 64
    assert found.tissue.sum() == expected
    assert found.artefacts["pen"].sum() == 80**2 / 64


def test_without_regions_every_outline_is_tissue(slide, tmp_path) -> None:
    data = collection(
        area(shapely.box(0, 0, 80, 80), "Tumor"),
        area(shapely.box(160, 0, 240, 80)),
        area(shapely.box(320, 0, 400, 80), "Ignore*"),
    )
    assert find_tissue(slide, settings_of(write(tmp_path / "a.geojson", data))).tissue.sum() == 200


def test_annotations_without_an_area_are_refused(slide, tmp_path) -> None:
    path = write(tmp_path / "a.geojson", collection(area(shapely.Point(3, 4), "Region*")))
    with pytest.raises(GeoJSONError, match="no outline of tissue"):
        find_tissue(slide, settings_of(path))


def test_annotations_off_the_slide_are_told(slide, tmp_path) -> None:
    path = write(tmp_path / "a.geojson", collection(area(shapely.box(5000, 0, 5100, 80))))
    found = find_tissue(slide, settings_of(path))
    assert found.is_empty
    assert "do not meet the slide" in found.warnings[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=63, max_size=63), st.floats(0.7, 9), st.floats(-40, 40))
def test_outlines_drawn_again_are_the_mask(bits: list[bool], scale: float, offset: float) -> None:
    tissue = np.reshape(bits, (7, 9))
    grid = PixelGrid(9, 7, Affine2D(scale, scale, offset, -offset), scale)
    found = outlines(TissueMask(grid, tissue, {"pen": ~tissue}), smoothing=0)
    for class_name, name, truth in (("Region*", "tissue", tissue), ("Artefact*", "pen", ~tissue)):
        pieces = [o.geometry for o in found if (o.class_name, o.name) == (class_name, name)]
        assert all(piece.geom_type == "Polygon" for piece in pieces)
        assert np.array_equal(covered(pieces, grid), truth)
        assert sum(piece.area for piece in pieces) == pytest.approx(truth.sum() * scale**2)


def test_outlines_of_an_empty_mask_are_none() -> None:
    grid = PixelGrid(4, 4, Affine2D(), 1.0)
    assert outlines(TissueMask(grid, np.zeros((4, 4), bool))) == []
