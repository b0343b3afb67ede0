"""Examples on the command line, and what looks like them on other slides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import shapely

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks.scenes import GLAND, Scene, draw_scene
from wsi_pipeline.vectorize.arrays import vectorize_array

FAST = {"tissue.method": "none", "tiling.batch": 1, "export.overview": False, "stitch.shard": 512}


def write_outlines(path: Path, scene: Scene) -> Path:
    """A QuPath file with every gland of a scene."""
    glands = [number for number, name in enumerate(scene.classes, start=1) if name == GLAND]
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(vectorize_array(scene.labels == number).geometry[0]),
            "properties": {"objectType": "annotation", "classification": {"name": "Gland"}},
        }
        for number in glands
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="module")
def drawn(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an annotated slide, one with glands and one without."""
    folder = tmp_path_factory.mktemp("drawn")
    example = draw_scene(0, aggregates=(0, 0), vacuoles=(0, 0))
    tools.write_tiff(folder / "example.tif", example.image)
    write_outlines(folder / "glands.geojson", example)
    tools.write_tiff(folder / "target.tif", draw_scene(1, vacuoles=(0, 0)).image)
    tools.write_tiff(folder / "none.tif", draw_scene(2, glands=(0, 0), aggregates=(0, 0), vacuoles=(0, 0)).image)
    return folder


def find(tools: Any, cluster: str, folder: Path, output: Path, *words: object) -> Path:
    examples = ("--example", folder / "example.tif", "--example-annotation", folder / "glands.geojson")
    slides = (folder / "target.tif", folder / "none.tif")
    settings = tools.arguments(FAST | {"mpp": 1})
    done = tools.call_here("run", *slides, "-o", output, "--cluster", cluster, *examples, *settings, *words)
    assert done.code == 0, done.err
    return output


@pytest.mark.slow
def test_glands_are_found_where_there_are_some_and_named_as_the_example(
    tools: Any, cluster: str, drawn: Path, tmp_path: Path
) -> None:
    output = find(tools, cluster, drawn, tmp_path / "out", "-w", "find-similar")
    assert tools.call_here("validate", output / "target" / "annotations.geojson").code == 0
    found = json.loads((output / "target" / "annotations.geojson").read_text())["features"]
    glands = [one for one in found if one["properties"].get("classification", {}).get("name") == "Gland"]
    truth = draw_scene(1, vacuoles=(0, 0))
    inside = shapely.union_all(
        [
            vectorize_array(truth.labels == number).geometry[0]
            for number, name in enumerate(truth.classes, start=1)
            if name == GLAND
        ]
    )
    area = shapely.union_all([shapely.make_valid(shapely.geometry.shape(one["geometry"])) for one in glands])
    assert shapely.intersection(area, inside).area > 0.5 * shapely.union(area, inside).area
    assert json.loads((output / "none" / "slide.json").read_text())["state"] == "empty"
    weights = json.loads((output / "run.json").read_text())["weights"]
    assert {"example 1", "example 1 outline"} <= {one["role"] for one in weights}


@pytest.mark.slow
def test_matches_are_prompts_for_any_segmenter(tools: Any, cluster: str, drawn: Path, tmp_path: Path) -> None:
    workflow = tmp_path / "ask.yaml"
    workflow.write_text("name: ask\nmpp: 1\nprompts: {source: matcher}\nsegment: {model: threshold, min_iou: 0}\n")
    output = find(tools, cluster, drawn, tmp_path / "out", "-w", workflow)
    found = json.loads((output / "target" / "annotations.geojson").read_text())["features"]
    names = {one["properties"]["classification"]["name"] for one in found if "classification" in one["properties"]}
    assert "Gland" in names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there is nothing to look for"),
        (("--example", "example.tif"), "1 slides with examples have 0 annotations"),
        (("--example", "example.tif", "--example-annotation", "empty.geojson"), "empty.geojson: holds no"),
        (("--example", "example.tif", "--example-annotation", "outside.geojson"), "outside.geojson"),
        (("--example", "gone.tif", "--example-annotation", "glands.geojson"), "gone.tif: no such"),
    ],
)
def test_examples_that_are_none_are_one_line(
    tools: Any, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(drawn)
    (drawn / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    outside = json.loads((drawn / "glands.geojson").read_text())
    for feature in outside["features"]:
        ring = feature["geometry"]["coordinates"][0]
        feature["geometry"]["coordinates"] = [[[x + 9000, y] for x, y in ring]]
    (drawn / "outside.geojson").write_text(json.dumps(outside))
    done = tools.call_here("run", "target.tif", "-w", "find-similar", "-o", tmp_path / "out", *words)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
