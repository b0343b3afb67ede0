"""The object table is the same bytes for the same objects."""

import csv
import json
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_pipeline.errors import OutputError
from wsi_pipeline.export.table import (
    OBJECT_SCHEMA,
    classes_of,
    object_table,
    pack_color,
    read_fragments,
    recognised_classes,
    regrouped,
    unpack_color,
    write_csv,
    write_fragment,
    write_geoparquet,
)
from wsi_pipeline.geometry import Region, Resolution
from wsi_pipeline.slides.info import SlideInfo

_INFO = SlideInfo(
    path="/somewhere/slide.svs",
    name="slide",
    width=1000,
    height=800,
    resolution=Resolution(0.5, 0.25),
    mpp_source="property",
    bounds=Region(0, 0, 1000, 800),
    has_bounds=False,
    level_sizes=((1000, 800),),
    reader="openslide",
    vendor="test",
    fingerprint="0",
)


def _table(count=10, start=0):
    places = np.arange(start, start + count, dtype=float)
    return object_table(
        shapely.box(places, places, places + 2, places + 4),
        id=[str(uuid.UUID(int=int(place))) for place in places],
        label=(places + 1).astype(np.uint32),
        area_um2=np.where(places % 2 == 0, 8.0, np.nan),
        color=pack_color((1, 2, 255)),
        **{"class": ["µ" if place % 2 else None for place in places]},
    )


def test_columns_that_are_not_given_are_null_and_nan_is_null():
    table = _table(2)
    assert table.schema == OBJECT_SCHEMA
    assert table["prompt_id"].null_count == 2
    assert table["area_um2"].to_pylist() == [8.0, None]
    assert table["object_type"].to_pylist() == ["detection"] * 2
    assert table["locked"].to_pylist() == [False] * 2


def test_unknown_columns_are_refused():
    with pytest.raises(ValueError, match="no such column of the object table: area"):
        object_table(np.array([shapely.box(0, 0, 1, 1)]), id=["a"], area=1.0)


def test_colours_survive_packing():
    assert unpack_color(pack_color((200, 1, 255))) == (200, 1, 255)
    assert pack_color(None) is None


def test_fragments_are_equal_byte_by_byte_and_come_back(tmp_path):
    for name in ("a", "b"):
        write_fragment(tmp_path / name, _table())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pa.Table.from_batches(read_fragments([tmp_path / "a", tmp_path / "b"])) == pa.concat_tables([_table()] * 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_damaged_and_missing_fragments_are_named(tmp_path):
    write_fragment(tmp_path / "a", _table())
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-20])
    for name in ("a", "none"):
        with pytest.raises(OutputError, match=f"{name}: cannot be read"):
            list(read_fragments([tmp_path / name]))


@pytest.mark.parametrize("sizes", [[25], [1] * 25, [3, 0, 22], [10, 10, 5]])
def test_regrouping_does_not_depend_on_how_rows_came(sizes):
    starts = np.cumsum([0, *sizes[:-1]])
    groups = list(regrouped([_table(n, int(start)) for n, start in zip(sizes, starts, strict=True)], 10))
    assert [len(group) for group in groups] == [10, 10, 5]
    assert pa.concat_tables(groups) == _table(25)


def test_final_table_does_not_depend_on_fragments(tmp_path):
    write_geoparquet(tmp_path / "one", [_table(20)], _INFO)
    assert write_geoparquet(tmp_path / "two", [_table(7), _table(13, 7).to_batches()[0]], _INFO) == 20
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_final_table_is_geoparquet(tmp_path):
    write_geoparquet(tmp_path / "a.parquet", [_table(20)], _INFO)
    metadata = pq.read_metadata(tmp_path / "a.parquet").metadata
    geo = json.loads(metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"][geo["primary_column"]] == {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": None,
        "edges": "planar",
        "bbox": [0.0, 0.0, 21.0, 23.0],
    }
    slide = json.loads(metadata[b"wsi_pipeline"])
    assert (slide["size"], slide["mpp"]) == ([1000, 800], [0.5, 0.25])
    assert b"somewhere" not in (tmp_path / "a.parquet").read_bytes()


def test_empty_tables(tmp_path):
    assert write_geoparquet(tmp_path / "a.parquet", [], _INFO) == 0
    assert "bbox" not in json.loads(pq.read_metadata(tmp_path / "a.parquet").metadata[b"geo"])["columns"]["geometry"]
    assert write_csv(tmp_path / "a.csv", []) == 0
    assert (tmp_path / "a.csv").read_text().startswith('"id","label","class"')


def test_csv_has_the_centroid_in_place_of_the_outline(tmp_path):
    assert write_csv(tmp_path / "a.csv", [_table(3)]) == 3
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["centroid_x"], rows[1]["centroid_y"], rows[1]["class"], rows[1]["area_um2"]) == ("2", "3", "µ", "")
    assert "geometry" not in rows[0]


def _recognised(count=4):
    places = np.arange(count, dtype=float)
    tumor = np.array([0.75, 0.5, np.nan, 0.25][:count], np.float32)
    return object_table(
        shapely.box(places, places, places + 2, places + 4),
        {"Tumor: Positive": tumor, 'a.b, "c"': 1 - tumor},
        id=[str(uuid.UUID(int=int(place))) for place in places],
    )


def test_probabilities_are_one_column_with_a_field_for_each_class(tmp_path):
    table, classes = _recognised(), ("Tumor: Positive", 'a.b, "c"')
    assert recognised_classes(table.schema) == classes
    write_fragment(tmp_path / "a", table)
    assert pa.Table.from_batches(read_fragments([tmp_path / "a"])) == table
    write_geoparquet(tmp_path / "b", read_fragments([tmp_path / "a"]), _INFO, classes)
    assert classes_of(tmp_path / "b") == classes
    assert pq.read_table(tmp_path / "b")["probabilities"].to_pylist()[1:3] == [
        dict.fromkeys(classes, 0.5),
        dict.fromkeys(classes),
    ]


def test_a_slide_without_objects_still_says_which_classes_there_are(tmp_path):
    assert write_geoparquet(tmp_path / "a", [], _INFO, ["x", "y"]) == 0
    assert classes_of(tmp_path / "a") == ("x", "y")
    write_csv(tmp_path / "a.csv", read_fragments([tmp_path / "a"]), classes_of(tmp_path / "a"))
    assert (tmp_path / "a.csv").read_text().endswith('"Probability: x","Probability: y"\n')


def test_tables_of_runs_without_the_stage_are_as_they_were(tmp_path):
    write_geoparquet(tmp_path / "a", [_table()], _INFO)
    assert pq.read_schema(tmp_path / "a").names == OBJECT_SCHEMA.names
    assert classes_of(tmp_path / "a") == ()
    with pytest.raises(OutputError, match="none: cannot be read"):
        classes_of(tmp_path / "none")


def test_csv_has_a_column_for_the_probability_of_each_class(tmp_path):
    write_csv(tmp_path / "a.csv", [_recognised()], recognised_classes(_recognised().schema))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Probability: Tumor: Positive"] for row in rows] == ["0.75", "0.5", "", "0.25"]
    assert [row['Probability: a.b, "c"'] for row in rows] == ["0.25", "0.5", "", "0.75"]


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.parquet"
    write_geoparquet(path, [_table()], _INFO)
    before = path.read_bytes()

    def broken():
        yield _table()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_geoparquet(path, broken(), _INFO)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_a_folder_that_does_not_exist_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_geoparquet(tmp_path / "none" / "a.parquet", [_table()], _INFO)
