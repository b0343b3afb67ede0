"""Every file QuPath ever wrote is read."""

import gzip
import json
import zipfile

import pytest
import shapely

from wsi_pipeline.errors import GeoJSONError
from wsi_pipeline.qupath.reader import read_objects

_RING = [[10, 10], [30, 10], [30, 25], [10, 25], [10, 10]]
_SHAPE = {"type": "Polygon", "coordinates": [_RING]}
_ID = "7c3c9f0e-6c1e-4c2e-9a63-0d6f4a0b7f11"


def _feature(properties=None, **members):
    return {"type": "Feature", "id": _ID, "geometry": _SHAPE, "properties": properties or {}, **members}


def _read(folder, data, name="a.geojson"):
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return list(read_objects(path))


@pytest.mark.parametrize(
    "data",
    [{"type": "FeatureCollection", "features": [_feature()]}, [_feature()], _feature(), [[_feature()]],
     [{"type": "FeatureCollection", "features": [_feature()]}], _SHAPE, [_SHAPE]],
    ids=["collection", "array", "feature", "nested array", "array of collections", "geometry", "array of geometries"],
)  # fmt: skip
def test_every_top_level_form_gives_the_object(tmp_path, data):
    (item,) = _read(tmp_path, data)
    assert item.geometry.equals(shapely.box(10, 10, 30, 25))
    assert item.object_type == "annotation"


def test_gz_and_zip(tmp_path):
    text = json.dumps([_feature()])
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.geojson", text)
        archive.writestr("two.json", text)
    assert [item.id for item in read_objects(tmp_path / "a.geojson.gz")] == [_ID]
    assert [item.id for item in read_objects(tmp_path / "a.zip")] == [_ID, _ID]


def test_a_byte_order_mark_is_passed_over(tmp_path):
    assert len(_read(tmp_path, "\ufeff" + json.dumps([_feature()]))) == 1


def test_all_properties_of_an_object(tmp_path):
    (item,) = _read(
        tmp_path,
        _feature(
            {
                "objectType": "detection",
                "name": "n",
                "color": [1, 2, 3],
                "classification": {"names": ["Tumor", "Positive"], "color": [250, 62, 62]},
                "isLocked": True,
                "measurements": {"a": 1.5, "b": "NaN", "c": None},
                "metadata": {"k": 1, "flag": True, "deep": {}},
            },
            geometry={**_SHAPE, "plane": {"c": -1, "z": 2, "t": 1}},
        ),
    )
    assert (item.object_type, item.name, item.color, item.locked) == ("detection", "n", (1, 2, 3), True)
    assert (item.class_name, item.class_color) == ("Tumor: Positive", (250, 62, 62))
    assert item.plane == (-1, 2, 1)
    assert item.measurements["a"] == 1.5
    assert set(item.measurements) == {"a", "b"}
    assert item.metadata == {"k": "1", "flag": "true"}
    assert item.id == _ID


def test_metadata_written_twice(tmp_path):
    text = json.dumps(_feature({"metadata": {"a": "1"}}))
    doubled = text.replace('"metadata": {"a": "1"}', '"metadata": {"a": "1"}, "metadata": {"a": "1"}')
    assert _read(tmp_path, doubled)[0].metadata == {"a": "1"}


def test_version_02_kept_the_type_in_the_id(tmp_path):
    old = _feature(
        {
            "classification": {"name": "Positive", "colorRGB": -377282, "parentClass": {"name": "Tumor"}},
            "measurements": [{"name": "a", "value": 2.0}],
        },
        id="PathDetectionObject",
    )
    (item,) = _read(tmp_path, [old])
    assert (item.id, item.object_type) == (None, "detection")
    assert (item.class_name, item.class_color) == ("Tumor: Positive", (250, 62, 62))
    assert item.measurements == {"a": 2.0}


def test_version_03_said_object_type(tmp_path):
    (item,) = _read(tmp_path, [_feature({"object_type": "tile", "classification": {"name": "x", "colorRGB": -1}})])
    assert (item.object_type, item.class_name, item.class_color) == ("tile", "x", (255, 255, 255))


def test_cells_have_a_nucleus(tmp_path):
    nucleus = {"type": "Polygon", "coordinates": [[[12, 12], [14, 12], [14, 14], [12, 12]]]}
    (item,) = _read(tmp_path, _feature({"objectType": "cell"}, nucleusGeometry=nucleus))
    assert item.object_type == "cell"
    assert item.nucleus.area == 2


def test_children_follow_their_parent_and_are_named_inside_it(tmp_path):
    parent = _feature({"childObjects": [_feature({"name": "one", "children": [_feature({"name": "two"})]})]})
    items = _read(tmp_path, {"type": "FeatureCollection", "features": [parent]})
    assert [item.name for item in items] == [None, "one", "two"]
    assert "features[0].childObjects[0].childObjects[0]" in items[2].place


def test_an_ellipse_fills_its_bounding_box(tmp_path):
    (item,) = _read(tmp_path, _feature(geometry={**_SHAPE, "isEllipse": True}))
    assert item.is_ellipse
    assert item.geometry.bounds == (10, 10, 30, 25)
    assert item.geometry.area == pytest.approx(3.14159 * 10 * 7.5, rel=1e-3)


def test_an_outline_that_crosses_itself_is_mended(tmp_path):
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    (item,) = _read(tmp_path, _feature(geometry=bow_tie))
    assert item.repaired
    assert item.geometry.is_valid
    assert item.geometry.area == 50


def test_class_without_colour_and_null_name_are_forgiven(tmp_path):
    (item,) = _read(tmp_path, _feature({"classification": {"name": "Tumor"}, "name": None, "objectType": "annotation"}))
    assert (item.class_name, item.class_color, item.name) == ("Tumor", None, None)


def test_a_missing_outline_is_none_and_a_broken_one_is_named(tmp_path):
    assert _read(tmp_path, _feature(geometry=None))[0].geometry is None
    open_ring = {"type": "Polygon", "coordinates": [_RING[:-1]]}
    with pytest.raises(GeoJSONError, match=rf"features\[1\] \(line 1, id {_ID}\): a ring is not closed"):
        _read(tmp_path, [_feature(), _feature(geometry=open_ring)])


def test_three_dimensional_positions_lose_their_z(tmp_path):
    (item,) = _read(tmp_path, {"type": "MultiPoint", "coordinates": [[1, 2, 3], [4, 5]]})
    assert shapely.get_coordinates(item.geometry).tolist() == [[1, 2], [4, 5]]


def test_members_of_the_collection_come_along(tmp_path):
    data = {"type": "FeatureCollection", "wsi_pipeline": {"origin": "full"}, "features": [_feature()]}
    assert _read(tmp_path, data)[0].collection["wsi_pipeline"] == {"origin": "full"}
