"""``validate_file`` refuses what QuPath refuses, and says where and why."""

import copy
import gzip
import json
import tracemalloc
import zipfile

import pytest
import shapely
from typer import Typer
from typer.testing import CliRunner

from wsi_pipeline.cli.validate import validate
from wsi_pipeline.errors import GeoJSONError
from wsi_pipeline.qupath.validate import validate_file

_RING = [[10, 10], [30, 10], [30, 25], [10, 25], [10, 10]]
_GOOD = {
    "type": "Feature",
    "id": "7c3c9f0e-6c1e-4c2e-9a63-0d6f4a0b7f11",
    "geometry": {"type": "Polygon", "coordinates": [_RING]},
    "properties": {
        "objectType": "detection",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "measurements": {"Area µm^2": 75.0, "Predicted IoU": 0.93},
        "isLocked": False,
    },
}


def _feature(**members) -> dict:
    """The good feature with members replaced; ``properties__name`` reaches inside, ``...`` removes."""
    feature = copy.deepcopy(_GOOD)
    for path, value in members.items():
        *parents, last = path.split("__")
        target = feature
        for parent in parents:
            target = target[parent]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return feature


def _write(folder, *features, name="a.geojson"):
    path = folder / name
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}), encoding="utf-8")
    return path


def test_good_file_is_counted_by_type_and_class(tmp_path):
    unclassified = _feature(properties__classification=..., properties__objectType=...)
    report = validate_file(_write(tmp_path, _GOOD, _GOOD, unclassified))
    assert report.objects == 3
    assert report.by_type == {"detection": 2, "annotation": 1}
    assert report.by_class == {"Tumor": 2, "": 1}
    assert report.vertices == 15
    assert report.warnings == []
    assert "2 detection, 1 annotation (Tumor 2, unclassified 1)" in report.summary()


_POLYGON = {"type": "Polygon"}
BAD_FEATURES = {
    "geometry missing": (_feature(geometry=...), "geometry is missing"),
    "geometry null": (_feature(geometry=None), "geometry is null"),
    "geometry text": (_feature(geometry="Polygon"), "geometry is not an object"),
    "coordinates missing": (_feature(geometry=_POLYGON), "geometry has no coordinates"),
    "geometry collection": (
        _feature(geometry={"type": "GeometryCollection", "geometries": []}),
        "geometry has no coordinates (GeometryCollection is not read)",
    ),
    "unknown geometry": (_feature(geometry={"type": "Circle", "coordinates": []}), "unknown type 'Circle'"),
    "ring open": (_feature(geometry={**_POLYGON, "coordinates": [_RING[:-1]]}), "a ring is not closed"),
    "ring of two": (_feature(geometry={**_POLYGON, "coordinates": [_RING[:2]]}), "a ring has 2 positions"),
    "one ring too flat": (_feature(geometry={**_POLYGON, "coordinates": _RING}), "Polygon coordinates:"),
    "coordinate null": (_feature(geometry={**_POLYGON, "coordinates": [[[1, None], *_RING]]}), "Polygon coordinates:"),
    "coordinate text": (_feature(geometry={"type": "Point", "coordinates": ["a", 1]}), "Point coordinates:"),
    "coordinate NaN": (_feature(geometry={"type": "Point", "coordinates": [float("nan"), 1]}), "Point coordinates:"),
    "line of one": (_feature(geometry={"type": "LineString", "coordinates": [[1, 1]]}), "LineString has one position"),
    "plane": (_feature(geometry__plane={"z": 0, "slice": 3}), "plane has the member 'slice'"),
    "id null": (_feature(id=None), "id is null"),
    "properties null": (_feature(properties=None), "properties is null"),
    "name null": (_feature(properties__name=None), "name is null"),
    "objectType null": (_feature(properties__objectType=None), "objectType is null"),
    "colour of text": (_feature(properties__color="red"), "color holds 'red'"),
    "class without colour": (_feature(properties__classification={"name": "Tumor"}), 'classification has no "color"'),
    "class colour packed": (
        _feature(properties__classification={"name": "Tumor", "color": -3670016}),
        "classification color is not an array",
    ),
    "class colour of two": (
        _feature(properties__classification={"name": "Tumor", "color": [1, 2]}),
        "classification color has 2 values",
    ),
    "class colour broken": (
        _feature(properties__classification={"name": "Tumor", "color": [1, 2, 2.5]}),
        "classification color holds 2.5",
    ),
    "class blank": (_feature(properties__classification={"name": " ", "color": []}), "classification has a blank name"),
    "class with line break": (_feature(properties__classification="a\nb"), "classification name holds a line break"),
    "class names with colon": (
        _feature(properties__classification={"names": ["a:b"], "color": [1, 2, 3]}),
        "classification names hold ':'",
    ),
    "class a number": (_feature(properties__classification=5), "classification is a number"),
    "measurement text": (_feature(properties__measurements={"p": "high"}), "measurement 'p' is the text 'high'"),
    "measurement list": (_feature(properties__measurements=[{"name": "p"}]), "measurements is a list"),
    "child": (_feature(properties__childObjects=[_GOOD, _feature(id=None)]), "childObjects[1]: id is null"),
    "nucleus": (_feature(nucleusGeometry=None), "nucleusGeometry is null"),
}


@pytest.mark.parametrize("kind", BAD_FEATURES)
def test_bad_feature_is_named_with_the_reason(tmp_path, kind):
    bad, reason = BAD_FEATURES[kind]
    with pytest.raises(GeoJSONError) as caught:
        validate_file(_write(tmp_path, _GOOD, _GOOD, bad, _GOOD))
    assert "a.geojson: features[2] (line 1" in str(caught.value)
    assert reason in str(caught.value)
    if isinstance(bad.get("id"), str):
        assert _GOOD["id"] in str(caught.value)


def test_every_outline_qupath_refuses_is_refused_and_no_other(tmp_path, shapes, refused):
    for name, shape in shapes.items():
        path = _write(tmp_path, _GOOD, _feature(geometry=json.loads(shapely.to_geojson(shape))))
        if name in refused:
            with pytest.raises(GeoJSONError, match=r"features\[1\].*outline is not valid"):
                validate_file(path)
        else:
            assert validate_file(path).objects == 2


def test_first_bad_feature_is_named_when_outline_and_structure_are_bad(tmp_path):
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]]]}
    path = _write(tmp_path, _GOOD, _feature(geometry=bow_tie), _feature(id=None))
    with pytest.raises(GeoJSONError, match=r"features\[1\]"):
        validate_file(path)


def test_outlines_without_area_are_invisible_in_qupath(tmp_path, shapes, emptied):
    flat = [_feature(geometry=json.loads(shapely.to_geojson(shapes[name]))) for name in emptied]
    report = validate_file(_write(tmp_path, _GOOD, *flat))
    assert report.invisible == 2
    assert "2 objects will be invisible" in report.warnings[0]


BAD_FILES = {
    "empty": (b"", "line 1, column 1: the file is empty"),
    "text": (b"hello", "line 1, column 1: the text is neither an object nor an array"),
    "number": (b"5", "line 1, column 1: the text is neither"),
    "cut off": (b'{"type": "FeatureCollection",\n"features": [{"type": "Fea', "line 2, column 23: unterminated string"),
    "comma missing": (b'{"type": "FeatureCollection"\n "features": []}', "line 2, column 2: '}' is expected"),
    "trailing comma": (b"[[],\n]", "line 2, column 1:"),
    "single quotes": (b"{'type': 1}", "line 1, column 2:"),
    "two texts": (b"[]\n[]", "line 2, column 1: something follows"),
    "broken inside": (b'{"type":"FeatureCollection","features":[\n{"id":"a"},\n{"id":}\n]}', "line 3, column 7:"),
    "latin-1": ("[{'µ'}]".encode("latin-1"), "is not UTF-8"),
    "no collection": (b'{"features": []}', "is not of type FeatureCollection"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_named_with_line_and_column(tmp_path, kind):
    content, reason = BAD_FILES[kind]
    path = tmp_path / "a.geojson"
    path.write_bytes(content)
    with pytest.raises(GeoJSONError) as caught:
        validate_file(path)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_line_is_right_far_into_a_large_file(tmp_path):
    path = tmp_path / "a.geojson"
    lines = [json.dumps(_GOOD)] * 12_000
    lines[11_000] = '{"type": "Feature", "id": tru}'
    path.write_text('{"type":"FeatureCollection","features":[\n' + ",\n".join(lines) + "]}")
    with pytest.raises(GeoJSONError, match="line 11002, column 27"):
        validate_file(path)


def test_repeated_measurement_is_refused_but_repeated_metadata_is_not(tmp_path):
    text = json.dumps(_GOOD)
    path = tmp_path / "a.geojson"
    path.write_text(text.replace('"isLocked"', '"metadata": {"a": "1"}, "metadata": {"a": "1"}, "isLocked"'))
    assert validate_file(path).objects == 1
    path.write_text(text.replace('"Predicted IoU"', '"Area \\u00b5m^2"'))
    with pytest.raises(GeoJSONError, match="measurements hold 'Area µm\\^2' twice"):
        validate_file(path)


def test_wrong_name_missing_file_and_damaged_archive(tmp_path):
    for name, content, reason in (
        ("a.txt", b"[]", "QuPath does not import files of this name"),
        ("a.geojson.gz", b"[]", "cannot be read"),
        ("b.geojson.gz", gzip.compress(b"[1, 2, 3]")[:-6], "cannot be read"),
        ("a.zip", b"PK", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GeoJSONError, match=reason):
            validate_file(tmp_path / name)
    with pytest.raises(GeoJSONError, match="no such file"):
        validate_file(tmp_path / "none.geojson")


def test_zip_without_geojson_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(GeoJSONError, match=r"holds no \.geojson file"):
        validate_file(tmp_path / "a.zip")


@pytest.mark.parametrize(
    "classification",
    [None, {}, "Tumor", "Tumor: Positive", {"name": "Tumor", "color": None}, {"name": "Tumor", "colorRGB": -3670016},
     {"names": ["Tumor", "Positive"], "color": [200, 50, 50]}, {"name": "Tumor", "color": [200.0, 0, 0, 255]},
     {"name": "a", "color": []}, {"name": "µ \"quoted\" ✓" * 20, "color": [-3670016]}],
)  # fmt: skip
def test_every_form_of_classification_is_taken(tmp_path, classification):
    assert validate_file(_write(tmp_path, _feature(properties__classification=classification))).objects == 1


@pytest.mark.parametrize("value", ["NaN", "inf", "-INF", "Infinity", "1e3", " 2.5 ", 3, -0.5])
def test_every_form_of_number_is_taken(tmp_path, value):
    assert validate_file(_write(tmp_path, _feature(properties__measurements={"p": value}))).notes == {}


def test_what_qupath_passes_over_is_told(tmp_path):
    report = validate_file(
        _write(
            tmp_path,
            {"type": "Thing"},
            _feature(id="cell-1"),
            _feature(properties__objectType="nucleus"),
            _feature(properties__measurements={"p": None, "q": 1}),
            _feature(geometry={}),
        )
    )
    assert report.objects == 4
    text = "\n".join(report.warnings)
    for part in ("'Thing' instead of Feature", "no UUID", "unknown type 'nucleus'", "no numbers", "without an outline"):
        assert part in text


def test_empty_collection_is_valid_and_said_to_be_empty(tmp_path):
    report = validate_file(_write(tmp_path))
    assert report.objects == 0
    assert report.warnings == ["holds no objects; QuPath will say that none were found"]


def test_children_are_counted(tmp_path):
    assert validate_file(_write(tmp_path, _feature(properties__childObjects=[_GOOD, _GOOD]))).objects == 3


def test_heap_estimate_matches_the_measured_figure(tmp_path):
    report = validate_file(_write(tmp_path, _GOOD))
    report.objects, report.vertices = 100_000, 3_300_000
    assert report.heap_bytes == pytest.approx(1156e6, rel=0.01)
    report.objects = 300_000
    assert any("split the file" in line for line in report.warnings)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.geojson"
        path.write_text('{"type":"FeatureCollection","features":[\n' + ",\n".join([json.dumps(_GOOD)] * count) + "]}")
        tracemalloc.start()
        validate_file(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(24_000) < 1.2 * peak(12_000)


def test_command_prints_one_line_per_file_and_tells_by_its_exit_code(tmp_path):
    good, bad = _write(tmp_path, _GOOD), _write(tmp_path, _feature(id=None), name="b.geojson")
    app = Typer()
    app.command()(validate)
    result = CliRunner().invoke(app, [str(good)])
    assert result.exit_code == 0
    result = CliRunner().invoke(app, [str(bad), str(good)])
    assert result.exit_code == 2
    first, second = result.output.splitlines()
    assert first.startswith("refused")
    assert "features[0]" in first
    assert second.startswith("ok")
    assert "1 detection" in second
