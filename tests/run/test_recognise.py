"""A run that names its objects: the same bytes however it is cut up, and names that arrive in QuPath."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_pipeline.arrays import load_arrays

DARK, MIDDLE = (60, 40, 90), (140, 110, 160)
NAMED = {
    "recognise.model": "darkness",
    "recognise.device": "cpu",
    "recognise.classes": "[Tumor, Stroma, pale]",
    "recognise.background": "pale",
    "tissue.method": "none",
    "export.overview": False,
}
PROBABILITIES = ["Probability: Tumor", "Probability: Stroma", "Probability: pale"]


@pytest.fixture(scope="module")
def slide(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and paler discs in turn, some of them on the seams of tiles."""
    image = tools.stained(600, 400, 0)
    y, x = np.mgrid[:400, :600]
    for number, (cx, cy) in enumerate((40 + 70 * col, 40 + 75 * row) for row in range(5) for col in range(8)):
        image[(x - cx) ** 2 + (y - cy) ** 2 < 10**2] = (DARK, MIDDLE)[number % 2]
    return tools.write_tiff(tmp_path_factory.mktemp("slide") / "discs.tif", image)


def run(tools: Any, cluster: str, slide: Path, output: Path, *words: object, **settings: object) -> Path:
    chosen = {key.replace("__", "."): value for key, value in settings.items()}
    done = tools.call_here("run", slide, "-o", output, "--cluster", cluster, *words, *tools.arguments(NAMED | chosen))
    assert done.code == 0, done.err
    return output / "discs"


def features(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "annotations.geojson").read_text())["features"]


@pytest.fixture(scope="module")
def named(tools: Any, cluster: str, slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a slide whose nuclei were found and named."""
    settings = tools.threshold | {"tiling.batch": 4, "export.csv": True}
    return run(tools, cluster, slide, tmp_path_factory.mktemp("named"), "-w", "nuclei", *tools.arguments(settings))


def test_every_object_has_the_class_that_its_grey_says(tools: Any, named: Path) -> None:
    assert tools.call_here("validate", named / "annotations.geojson").code == 0
    objects = [one for one in features(named) if one["properties"]["objectType"] == "detection"]
    assert len(objects) == 40
    for one in objects:
        middle = shapely.geometry.shape(one["geometry"]).centroid
        number = round((middle.y - 40) / 75) * 8 + round((middle.x - 40) / 70)
        classification = one["properties"]["classification"]
        assert classification == (
            {"name": "Stroma", "color": [150, 200, 150]} if number % 2 else {"name": "Tumor", "color": [200, 0, 0]}
        )
        measured = one["properties"]["measurements"]
        told = [measured[name] for name in PROBABILITIES]
        assert sum(told) == pytest.approx(1, abs=1e-4)
        assert max(told) == measured[f"Probability: {classification['name']}"]
    assert json.loads((named / "slide.json").read_text())["tasks"]["outline"]["classes"] == {"Stroma": 20, "Tumor": 20}


def test_tables_have_the_probabilities_and_the_command_exports_them(tools: Any, named: Path, tmp_path: Path) -> None:
    table = pq.read_table(named / "objects.parquet")
    told = table["probabilities"].to_pylist()
    assert list(told[0]) == ["Tumor", "Stroma", "pale"]
    best = [max(one, key=one.get) for one in told]
    assert best == table["class"].to_pylist()
    with (named / "objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["Probability: Tumor"]) for row in rows] == pytest.approx([one["Tumor"] for one in told])
    assert tools.call_here("export", named, "-f", "csv", "-o", tmp_path / "o.csv").code == 0
    assert (tmp_path / "o.csv").read_bytes() == (named / "objects.csv").read_bytes()
    assert tools.call_here("export", named, "-o", tmp_path / "a.geojson").code == 0
    assert (tmp_path / "a.geojson").read_bytes() == (named / "annotations.geojson").read_bytes()


def test_how_many_tiles_are_in_a_batch_changes_no_byte(
    tools: Any, cluster: str, slide: Path, named: Path, tmp_path: Path
) -> None:
    words = tools.arguments(tools.threshold)
    other = run(tools, cluster, slide, tmp_path, "-w", "nuclei", *words, tiling__batch=1)
    assert tools.contents(other) == tools.contents(named)


@pytest.mark.slow
def test_how_the_slide_is_cut_changes_no_name(
    tools: Any, cluster: str, slide: Path, named: Path, tmp_path: Path
) -> None:
    words, cut = tools.arguments(tools.threshold), {"stitch__chunk": 128, "stitch__shard": 128}
    other = run(tools, cluster, slide, tmp_path, "-w", "nuclei", *words, **cut)
    by_id = [{one["id"]: one["properties"] for one in features(folder)} for folder in (named, other)]
    assert by_id[0] == by_id[1]


@pytest.mark.slow
def test_what_was_recognised_before_a_run_stopped_is_not_recognised_again(
    tools: Any, cluster: str, slide: Path, named: Path, tmp_path: Path
) -> None:
    words = ("-w", "nuclei", "--keep-scratch", *tools.arguments(tools.threshold | {"tiling.batch": 4}))
    folder = run(tools, cluster, slide, tmp_path, *words)
    (folder / "slide.json").unlink()  # as if it had stopped before its end
    for path in [*(folder / ".scratch" / "rows").iterdir(), *(folder / ".scratch" / "objects").glob("000001*")]:
        path.unlink()
    (folder / ".scratch" / "tasks.jsonl").unlink()
    again = run(tools, cluster, slide, tmp_path, *words)
    assert tools.contents(again) == tools.contents(named)
    counts = json.loads((again / "slide.json").read_text())["tasks"]["segment"]
    assert counts["computed"] == 1
    assert counts["reused"] == counts["tasks"] - 1


def test_other_words_give_the_same_objects_with_the_same_ids(
    tools: Any, cluster: str, slide: Path, named: Path, tmp_path: Path
) -> None:
    words = tools.arguments(tools.threshold | {"tiling.batch": 4})
    settings = {"recognise__classes": "[Gland, Nucleus, Muscle]", "recognise__background": "null"}
    other = run(tools, cluster, slide, tmp_path, "-w", "nuclei", *words, **settings)
    before, after = ({one["id"]: one["geometry"] for one in features(folder)} for folder in (named, other))
    assert before == after
    classes = {one["properties"]["classification"]["name"] for one in features(other)} - {"Region*"}
    assert classes == {"Gland", "Nucleus"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outlines in QuPath: around discs, one with a class, one with a hole, a rectangle of background, a point."""

    def feature(number: int, shape: Any, **properties: Any) -> dict[str, Any]:
        return {
            "type": "Feature",
            "id": f"7c3c9f0e-6c1e-4c2e-9a63-0d6f4a0b7f{number:02}",
            "geometry": shapely.geometry.mapping(shape),
            "properties": {"objectType": "annotation"} | properties,
        }

    disc = shapely.Point(40, 40).buffer(10)
    features = [
        feature(1, disc, name="first", isLocked=True),
        feature(2, shapely.Point(110, 40).buffer(9.7), classification={"name": "Odd", "color": [1, 2, 3]}),
        feature(3, shapely.Point(180, 40).buffer(9).difference(shapely.Point(180, 40).buffer(3))),
        feature(4, shapely.box(200.25, 60, 230, 95)),
        feature(5, shapely.Point(40, 190)),
    ]
    path = tmp_path_factory.mktemp("drawn") / "discs.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_outlines_from_qupath_come_back_with_names_and_nothing_else_changed(
    tools: Any, cluster: str, slide: Path, drawn: Path, tmp_path: Path
) -> None:
    settings = {"recognise__min_probability": 0, "recognise__keep_classes": True}
    folder = run(tools, cluster, slide, tmp_path, "-w", "name-objects", "--prompts", drawn, **settings)
    assert tools.call_here("validate", folder / "annotations.geojson").code == 0
    asked = {one["id"]: one for one in json.loads(drawn.read_text())["features"]}
    found = {one["id"]: one for one in features(folder)}
    assert sorted(found) == sorted(asked)[:4]
    for key, one in found.items():
        before = shapely.geometry.shape(asked[key]["geometry"])
        assert before.hausdorff_distance(shapely.geometry.shape(one["geometry"])) < 0.01
        assert "Predicted IoU" not in one["properties"]["measurements"]
        assert set(PROBABILITIES) <= set(one["properties"]["measurements"])
    classes = [found[key]["properties"].get("classification", {}).get("name") for key in sorted(found)]
    assert classes == ["Tumor", "Odd", "Tumor", None]  # the last is background
    assert found[sorted(found)[0]]["properties"]["name"] == "first"
    assert found[sorted(found)[0]]["properties"]["isLocked"]
    warnings = json.loads((folder / "slide.json").read_text())["warnings"]
    assert any("dropped" in one and "names outlines" in one for one in warnings)


def test_classes_that_people_gave_are_overwritten_on_request(
    tools: Any, cluster: str, slide: Path, drawn: Path, tmp_path: Path
) -> None:
    settings = {"recognise__min_probability": 0, "recognise__keep_classes": False}
    folder = run(tools, cluster, slide, tmp_path, "-w", "name-objects", "--prompts", drawn, **settings)
    classes = {one["id"][-1]: one["properties"].get("classification", {}).get("name") for one in features(folder)}
    assert classes == {"1": "Tumor", "2": "Stroma", "3": "Tumor", "4": None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recognise.model": "threshold"}, "recognise.model: threshold is no Recogniser"),
        ({"recognise.model": "namer"}, "recognise.model: no such model: namer"),
        ({"recognise.classes": "[]", "recognise.background": "null"}, "recognise.classes: names no classes"),
        ({"recognise.background": "gone"}, "background: gone is no class"),
        ({"recognise.device": "gpu"}, "recognise.device: no such device: gpu"),
        ({"segment.model": "darkness"}, "segment.model: darkness is no Segmenter"),
    ],
)
def test_what_cannot_be_recognised_is_one_line_before_anything_runs(
    tools: Any, cluster: str, slide: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    words = tools.arguments(tools.threshold | NAMED | settings)
    result = tools.call_here("run", slide, "-w", "nuclei", "-o", tmp_path / "out", "--cluster", cluster, *words)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_recogniser_computes_as_the_model_whose_embeddings_it_shares(plugin: None) -> None:
    from wsi_pipeline.run.worker_models import prepare_models
    from wsi_pipeline.segment.recognise import ANY_SIZE
    from wsi_pipeline.workflow import load_workflow

    darkness = {"recognise.model": "darkness", "recognise.classes": ["a"], "recognise.device": "cpu"}
    alone = prepare_models(load_workflow("name-objects", darkness), {})
    assert (alone["dtypes"], alone["input_size"]) == ({"recognise": "fp32"}, ANY_SIZE)
    segment = {"segment.model": "threshold", "segment.device": "cpu", "segment.precision": "bf16"}
    shared = prepare_models(load_workflow("nuclei", darkness | segment), {})
    assert (shared["dtypes"], shared["input_size"]) == ({"segment": "bf16", "recognise": "bf16"}, 256)
    assert "segment stage" in shared["reasons"]["recognise"]
    kept = prepare_models(load_workflow("nuclei", darkness | segment), {"segment": "bf16", "recognise": "fp32"})
    assert kept["dtypes"]["recognise"] == "fp32"


def test_an_object_of_several_tiles_has_the_class_and_probabilities_of_its_first_part(
    tools: Any, cluster: str, slide: Path, tmp_path: Path
) -> None:
    words = ("-w", "nuclei", "--keep-scratch", *tools.arguments(tools.threshold))
    folder = run(tools, cluster, slide, tmp_path, *words, tiling__overlap="4 um", stitch__merge_iou=0.1)
    members = np.bincount(load_arrays(folder / ".scratch" / "objects.arrow", ["root"])["root"])
    assert (members[1:] > 1).any()
    table = pq.read_table(folder / "objects.parquet")
    assert [max(one, key=one.get) for one in table["probabilities"].to_pylist()] == table["class"].to_pylist()
    stored = [load_arrays(path) for path in sorted((folder / ".scratch" / "objects").glob("*.arrow"))]
    first = {}
    for batch in stored:
        for tile, row in zip(batch["tile"].tolist(), batch["probabilities"], strict=True):
            first.setdefault(tile, []).append(row.tolist())
    by_id = [row for tile in sorted(first) for row in first[tile]]  # ids go tile by tile
    told = [list(one.values()) for one in table["probabilities"].to_pylist()]
    assert told == [by_id[label - 1] for label in table["label"].to_pylist()]
