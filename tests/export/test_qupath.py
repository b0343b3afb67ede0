"""What the writer writes, the validator takes and the reader gives back."""

import gzip
import json
import re
import subprocess
import sys
import textwrap
import uuid

import geojson
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import OutputError
from wsi_pipeline.export.features import MEASUREMENTS
from wsi_pipeline.export.measurements import measure_shapes
from wsi_pipeline.export.qupath import write_geojson
from wsi_pipeline.export.table import object_table, pack_color
from wsi_pipeline.geometry import Region, Resolution
from wsi_pipeline.prompts.qupath import read_qupath_prompts
from wsi_pipeline.qupath.reader import read_objects
from wsi_pipeline.qupath.validate import validate_file
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.workflow import ExportSettings, QuPathPrompts


def _info(bounds: Region | None = None) -> SlideInfo:
    return SlideInfo(
        path="/somewhere/slide.mrxs",
        name="slide",
        width=100_000,
        height=80_000,
        resolution=Resolution(0.25, 0.25),
        mpp_source="property",
        bounds=bounds or Region(0, 0, 100_000, 80_000),
        has_bounds=bounds is not None,
        level_sizes=((100_000, 80_000),),
        reader="openslide",
        vendor="mirax",
        fingerprint="0",
    )


def _ids(count, start=0):
    return [str(uuid.UUID(int=start + number)) for number in range(count)]


def _table(shapes, start=0, **columns):
    shapes = np.array(shapes, dtype=object)
    return object_table(shapes, id=_ids(len(shapes), start), **columns)


def _boxes(count):
    places = np.arange(count, dtype=float) * 10
    return shapely.box(places, places, places + 4, places + 6)


def _write(folder, *tables, info=None, colors=None, annotations=(), name="annotations.geojson", **export):
    report = write_geojson(
        folder / name, tables, info or _info(), ExportSettings(**export), colors, annotations=annotations
    )
    for file in report.files:
        validate_file(file)
    return report


def _features(report):
    found = []
    for file in report.files:
        opener = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt", encoding="utf-8") as stream:
            found += json.load(stream)["features"]
    return found


def test_a_feature_member_by_member(tmp_path):
    table = _table(
        [shapely.box(10, 10, 30, 25)],
        predicted_iou=0.93,
        prompt_id="source-1",
        name="n1",
        color=pack_color((1, 2, 3)),
        metadata='{"by": "me", "deep": {}, "none": null}',
        **{"class": "Tumor"},
        **measure_shapes(np.array([shapely.box(10, 10, 30, 25)]), Resolution(0.5, 0.5)),
    )
    (feature,) = _features(_write(tmp_path, table))
    assert feature == {
        "type": "Feature",
        "id": _ids(1)[0],
        "geometry": {"type": "Polygon", "coordinates": [[[30, 10], [30, 25], [10, 25], [10, 10], [30, 10]]]},
        "properties": {
            "objectType": "detection",
            "name": "n1",
            "color": [1, 2, 3],
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
            "metadata": {"by": "me", "prompt_id": "source-1"},
            "measurements": {
                "Area µm^2": 75,
                "Length µm": 35,
                "Circularity": 0.76937,
                "Solidity": 1,
                "Max diameter µm": 12.5,
                "Min diameter µm": 7.5,
                "Predicted IoU": 0.93,
            },
        },
    }


def test_what_was_written_is_read_back(tmp_path):
    shapes = [
        shapely.box(0, 0, 40, 40) - shapely.box(10, 10, 30, 30),
        shapely.MultiPolygon([shapely.box(0, 0, 5, 5), shapely.box(7, 7, 9, 9)]),
        shapely.Point(50_000.123, 50_000.456).buffer(20),
    ]
    table = _table(shapes, object_type="annotation", **{"class": ["Tumor: Positive", None, "Gland"]})
    items = list(read_objects(_write(tmp_path, table, colors={"Gland": (1, 2, 3)}).files[0]))
    assert [item.id for item in items] == _ids(3)
    assert [item.class_name for item in items] == ["Tumor: Positive", None, "Gland"]
    assert items[2].class_color == (1, 2, 3)
    for item, shape in zip(items, shapes, strict=True):
        assert not item.repaired
        assert item.geometry.area == pytest.approx(shape.area, abs=0.01 * shape.length)
        assert shapely.hausdorff_distance(item.geometry, shape) < 0.01


def test_a_ring_mask_is_one_polygon_with_one_hole(tmp_path):
    (feature,) = _features(_write(tmp_path, _table([shapely.box(0, 0, 40, 40) - shapely.box(10, 10, 30, 30)])))
    shell, hole = feature["geometry"]["coordinates"]
    assert shapely.LinearRing(shell).is_ccw
    assert not shapely.LinearRing(hole).is_ccw
    assert shapely.Polygon(shell, [hole]).area == 1200


@given(st.lists(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 500)), min_size=3, max_size=9), max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_polygons_come_the_file_is_valid(tmp_path, outlines):
    report = _write(tmp_path, _table([shapely.Polygon(outline) for outline in outlines]))
    checked = validate_file(report.files[0])
    assert checked.objects == report.objects == len(outlines) - report.dropped
    assert checked.invisible == 0
    assert checked.vertices == report.vertices
    with report.files[0].open() as stream:
        assert geojson.load(stream).is_valid


def test_numbers_are_as_short_as_can_be(tmp_path):
    shape = shapely.Polygon([(0, 0), (10.5, 0), (10.126, 3), (1e-9, 4)])
    table = _table([shape], area_um2=123456.789, perimeter_um=1e-7 / 3, solidity=np.inf, circularity=np.nan)
    report = _write(tmp_path, table)
    text = report.files[0].read_text(encoding="utf-8")
    coordinates = re.search(r'"coordinates":\[\[(.*?)\]\]', text)[1]
    assert set(re.findall(r"\[(.*?)\]", coordinates + "]")) == {"10.5,0", "10.13,3", "0,4", "0,0"}
    assert '"measurements":{"Area µm^2":123457,"Length µm":3.33333e-8}' in text
    assert "null" not in text


def test_measurements_can_be_left_out(tmp_path):
    (feature,) = _features(_write(tmp_path, _table(_boxes(1), area_um2=5.0), measurements=False))
    assert "measurements" not in feature["properties"]


def test_measurement_names_are_unlike_each_other():
    assert len(set(MEASUREMENTS.values())) == len(MEASUREMENTS)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Tumor: Positive", {"names": ["Tumor", "Positive"]}),
        ("  spaced  out ", {"name": "spaced out"}),
        ('quoted "µ" ✓', {"name": 'quoted "µ" ✓'}),
        ("line\nbreak", {"name": "line break"}),
        ("x" * 300, {"name": "x" * 300}),
        (" : ", None),
    ],
)
def test_class_names_of_every_kind(tmp_path, name, written):
    (feature,) = _features(_write(tmp_path, _table(_boxes(1), **{"class": name})))
    classification = feature["properties"].get("classification")
    if written is None:
        assert classification is None
    else:
        assert len(classification.pop("color")) == 3
        assert classification == written


def test_only_annotations_are_locked(tmp_path):
    annotation = _table(_boxes(1), object_type="annotation")
    features = _features(_write(tmp_path, _table(_boxes(1), 5), annotations=[annotation], lock=True))
    assert [feature["properties"].get("isLocked") for feature in features] == [True, None]
    locked = _table(_boxes(2), object_type="annotation", locked=[True, False])
    features = _features(_write(tmp_path, locked))
    assert [feature["properties"].get("isLocked") for feature in features] == [True, None]


def test_bounds_are_subtracted_where_qupath_crops_and_added_again_by_the_prompt_reader(tmp_path):
    info = _info(Region(1000, 500, 50_000, 40_000))
    table = _table([shapely.box(1010, 520, 1030, 545)])
    for origin, corner in (("auto", [10, 20]), ("bounds", [10, 20]), ("full", [1010, 520])):
        report = _write(tmp_path, table, info=info, qupath_origin=origin)
        (feature,) = _features(report)
        assert np.min(feature["geometry"]["coordinates"][0], axis=0).tolist() == corner
        (prompt,) = read_qupath_prompts(report.files[0], info, QuPathPrompts(source="qupath")).prompts
        assert prompt.box == (1010, 520, 1030, 545)
        assert prompt.id == _ids(1)[0]


def test_the_file_says_what_was_done(tmp_path):
    report = _write(tmp_path, _table(_boxes(1)), info=_info(Region(1000, 500, 50_000, 40_000)))
    text = report.files[0].read_text()
    assert json.loads(text)["wsi_pipeline"] == {
        "origin": "bounds",
        "bounds": [1000, 500, 50_000, 40_000],
        "slide": "slide",
        "mpp": [0.25, 0.25],
        "size": [100_000, 80_000],
    }
    assert "somewhere" not in text


def test_an_empty_result_is_a_valid_collection_and_said_to_be_empty(tmp_path):
    report = _write(tmp_path)
    assert json.loads(report.files[0].read_text())["features"] == []
    assert report.objects == 0
    assert "no objects were found" in report.warnings[0]


def test_repaired_and_dropped_are_counted(tmp_path):
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    flat = shapely.Polygon([(0, 0), (5, 5), (9, 9)])
    report = _write(tmp_path, _table([bow_tie, flat, shapely.box(0, 0, 1, 1)]))
    assert (report.objects, report.repaired, report.dropped) == (2, 1, 1)
    assert len(report.warnings) == 2


def test_centroids_in_place_of_outlines_but_not_of_tissue(tmp_path):
    tissue = _table([shapely.box(0, 0, 900, 900)], 50, object_type="annotation", **{"class": "Region*"})
    features = _features(_write(tmp_path, _table(_boxes(3)), annotations=[tissue], geometry="centroid"))
    assert [feature["geometry"]["type"] for feature in features] == ["Polygon", "Point", "Point", "Point"]
    assert features[2]["geometry"]["coordinates"] == [12, 13]


def test_points_and_lines_pass_beside_outlines(tmp_path):
    shapes = [
        shapely.Point(1.004, 2),
        shapely.box(0, 0, 4, 4),
        shapely.MultiPoint([(1, 2), (3.5, 4)]),
        shapely.LineString([(0, 0), (5, 5)]),
        shapely.Point(),
    ]
    report = _write(tmp_path, _table(shapes, object_type="annotation"))
    assert (report.objects, report.dropped) == (4, 1)
    texts = [json.dumps(feature["geometry"]["coordinates"]) for feature in _features(report)]
    assert [texts[0], texts[2], texts[3]] == ["[1, 2]", "[[1, 2], [3.5, 4]]", "[[0, 0], [5, 5]]"]


def test_annotations_come_first(tmp_path):
    tissue = _table([shapely.box(0, 0, 900, 900)], 50, object_type="annotation", name="t", **{"class": "Region*"})
    features = _features(_write(tmp_path, _table(_boxes(2)), annotations=[tissue]))
    assert [feature["properties"]["objectType"] for feature in features] == ["annotation", "detection", "detection"]


@pytest.mark.parametrize("compressed", [False, True])
def test_equal_tables_give_equal_bytes_however_they_are_cut(tmp_path, compressed):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = _table(_boxes(50))
    first = _write(tmp_path / "a", whole, gzip=compressed).files[0]
    second = _write(tmp_path / "b", whole.slice(0, 7), whole.slice(7), gzip=compressed).files[0]
    assert first.read_bytes() == second.read_bytes()
    assert first.name == "annotations.geojson" + (".gz" if compressed else "")


def test_split_by_count_with_a_script_that_names_every_part(tmp_path):
    report = _write(tmp_path, _table(_boxes(25)), max_objects_per_file=10, gzip=True)
    names = [f"annotations.part{n:03}.geojson.gz" for n in (1, 2, 3)]
    assert [file.name for file in report.files] == names
    assert [validate_file(file).objects for file in report.files] == [10, 10, 5]
    assert [feature["id"] for feature in _features(report)] == _ids(25)
    script = report.script.read_text()
    assert re.findall(r"^    '(.+)',?$", script, re.MULTILINE) == names
    assert "resolveHierarchy()" in script
    assert str(tmp_path) not in script


def test_no_parts_when_all_objects_fit(tmp_path):
    report = _write(tmp_path, _table(_boxes(10)), max_objects_per_file=10)
    assert [file.name for file in report.files] == ["annotations.geojson"]
    assert report.script is None


def test_parts_of_an_earlier_export_do_not_stay(tmp_path):
    (tmp_path / "annotations.partly.geojson").write_text("mine")
    _write(tmp_path, _table(_boxes(25)), max_objects_per_file=5)
    _write(tmp_path, _table(_boxes(25)), max_objects_per_file=20)
    expected = {"annotations.part001.geojson", "annotations.part002.geojson", "annotations.import.groovy"}
    assert {file.name for file in tmp_path.iterdir()} == expected | {"annotations.partly.geojson"}
    _write(tmp_path, _table(_boxes(5)))
    assert {file.name for file in tmp_path.iterdir()} == {"annotations.geojson", "annotations.partly.geojson"}


def test_quotes_in_a_slide_name_do_not_break_the_script(tmp_path):
    report = _write(tmp_path, _table(_boxes(4)), name="it's $5 {x}.geojson", max_objects_per_file=2)
    assert r"'it\'s $5 {x}.part001.geojson'" in report.script.read_text()


def test_a_failed_export_leaves_the_old_file_and_no_rubbish(tmp_path):
    before = _write(tmp_path, _table(_boxes(3))).files[0].read_bytes()

    def broken():
        yield _table(_boxes(5000))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_geojson(tmp_path / "annotations.geojson", broken(), _info(), ExportSettings())
    assert [file.name for file in tmp_path.iterdir()] == ["annotations.geojson"]
    assert (tmp_path / "annotations.geojson").read_bytes() == before


def test_an_unwritable_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_geojson(tmp_path / "none" / "a.geojson", [_table(_boxes(1))], _info(), ExportSettings())


def test_too_many_objects_for_comfort_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr("wsi_pipeline.qupath.validate.MANY_OBJECTS", 10)
    report = _write(tmp_path, _table(_boxes(25)))
    assert "25 objects with 125 vertices need about" in report.warnings[0]
    assert _write(tmp_path, _table(_boxes(25)), max_objects_per_file=10).warnings == []


_STREAM = """
    import resource, sys, uuid
    from pathlib import Path
    import numpy as np, shapely
    from wsi_pipeline.export.qupath import write_geojson
    from wsi_pipeline.export.table import object_table
    from wsi_pipeline.geometry import Region, Resolution
    from wsi_pipeline.slides.info import SlideInfo
    from wsi_pipeline.workflow import ExportSettings

    count, path = int(sys.argv[1]), Path(sys.argv[2])
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * 12

    def batches():
        rng = np.random.default_rng(0)
        for start in range(0, count, 1000):
            shapes = shapely.polygons(circle + rng.random((1000, 1, 2)) * 90_000)
            yield object_table(shapes, id=[str(uuid.UUID(int=start + i)) for i in range(1000)], area_um2=4.5)

    info = SlideInfo("s", "s", 10**5, 10**5, Resolution(0.25, 0.25), "user", Region(0, 0, 10**5, 10**5), False,
                     ((10**5, 10**5),), "image", "", "")
    assert write_geojson(path, batches(), info, ExportSettings()).objects == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_objects(tmp_path):
    def peak(count: int) -> int:
        command = [sys.executable, "-c", textwrap.dedent(_STREAM), str(count), str(tmp_path / "a.geojson")]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(100_000) < 1.2 * peak(10_000)
