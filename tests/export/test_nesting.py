"""Objects beneath those that hold them."""

import json
import uuid

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.export.nesting import HELD, parents
from wsi_pipeline.export.qupath import write_geojson
from wsi_pipeline.export.table import object_table
from wsi_pipeline.geometry import Region, Resolution
from wsi_pipeline.qupath.reader import read_objects
from wsi_pipeline.qupath.validate import validate_file
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.workflow import ExportSettings

INFO = SlideInfo(
    path="/somewhere/slide.svs",
    name="slide",
    width=1000,
    height=1000,
    resolution=Resolution(0.5, 0.5),
    mpp_source="property",
    bounds=Region(0, 0, 1000, 1000),
    has_bounds=False,
    level_sizes=((1000, 1000),),
    reader="openslide",
    vendor="aperio",
    fingerprint="0",
)
GLAND, CELL, NUCLEUS = shapely.box(0, 0, 100, 100), shapely.box(10, 10, 40, 40), shapely.box(20, 20, 30, 30)


def written(tmp_path, shapes, classes, **settings):
    """The features of the file, and what the reader makes of it."""
    ids = [str(uuid.UUID(int=number)) for number in range(len(shapes))]
    table = object_table(np.array(shapes, object), id=ids, **{"class": classes, "area_um2": shapely.area(shapes) / 4})
    path = tmp_path / "nested.geojson"
    report = write_geojson(path, [table], INFO, ExportSettings(**settings), nested=True)
    checked = validate_file(path)
    assert not checked.notes
    assert not checked.invisible
    assert checked.objects == report.objects
    return json.loads(path.read_text())["features"], list(read_objects(path))


boxes = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2).map(
    lambda box: shapely.box(box[0], box[1], box[0] + box[2], box[1] + box[3])
)


@given(st.lists(boxes, max_size=12))
def test_a_parent_is_the_smallest_that_holds_most_of_its_child(shapes) -> None:
    shapes = np.array(shapes, object)
    for child, parent in enumerate(parents(shapes).tolist()):
        holders = {
            other: shape.area
            for other, shape in enumerate(shapes)
            if shape.area > shapes[child].area
            and shape.intersection(shapes[child]).area >= HELD * shapes[child].area - 1e-9
        }
        assert (parent == -1) == (not holders)
        assert parent == -1 or holders[parent] == min(holders.values())


def test_objects_are_written_within_those_that_hold_them(tmp_path) -> None:
    shapes = [NUCLEUS, GLAND, CELL, shapely.box(200, 200, 210, 210)]
    features, read = written(tmp_path, shapes, ["Nucleus", "Gland", "Cell", "Nucleus"])
    assert [one["properties"]["classification"]["name"] for one in features] == ["Gland", "Nucleus"]
    (cell,) = features[0]["properties"]["childObjects"]
    (nucleus,) = cell["properties"]["childObjects"]
    assert nucleus["id"] == str(uuid.UUID(int=0))
    assert len(read) == 4


def test_the_file_does_not_depend_on_the_order_of_equal_objects_below(tmp_path) -> None:
    shapes = [GLAND, shapely.box(5, 5, 9, 9), shapely.box(50, 50, 54, 54)]
    features, _ = written(tmp_path, shapes, ["Gland", "Nucleus", "Nucleus"])
    ids = [child["id"] for child in features[0]["properties"]["childObjects"]]
    assert ids == sorted(ids)


def test_a_cell_with_its_nucleus_is_one_object_with_both_outlines(tmp_path) -> None:
    classes = ["Gland", "Tumor: Cell", "Tumor: Nucleus"]
    features, _ = written(tmp_path, [GLAND, CELL, NUCLEUS], classes, cells={})
    (cell,) = features[0]["properties"]["childObjects"]
    assert cell["properties"]["objectType"] == "cell"
    assert cell["properties"]["classification"]["names"] == ["Tumor", "Cell"]
    assert shapely.geometry.shape(cell["geometry"]).equals(CELL)
    assert shapely.geometry.shape(cell["nucleusGeometry"]).equals(NUCLEUS)
    measured = cell["properties"]["measurements"]
    assert (measured["Area µm^2"], measured["Nucleus: Area µm^2"]) == (225, 25)
    assert "childObjects" not in cell["properties"]


def test_a_cell_with_two_nuclei_keeps_both(tmp_path) -> None:
    nuclei = [shapely.box(12, 12, 20, 20), shapely.box(25, 25, 35, 35)]
    features, _ = written(tmp_path, [CELL, *nuclei], ["Cell", "Nucleus", "Nucleus"], cells={})
    assert len(features) == 1
    shape = shapely.geometry.shape(features[0]["nucleusGeometry"])
    assert shape.equals(shapely.union_all(nuclei))
    assert not any(name.startswith("Nucleus: ") for name in features[0]["properties"].get("measurements", {}))


@pytest.mark.parametrize("classes", [["Cell", "Lumen"], ["Gland", "Nucleus"]])
def test_other_classes_make_no_cell(tmp_path, classes) -> None:
    features, _ = written(tmp_path, [CELL, NUCLEUS], classes, cells={})
    assert features[0]["properties"]["objectType"] == "detection"
    assert len(features[0]["properties"]["childObjects"]) == 1
