"""Runs that want masks of several sizes: what lies in what, in QuPath's file and in the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_pipeline.stitching.ngff import MaskPyramid

GRANULAR = {
    "segment.model": "granular",
    "segment.granularity": "{2: Gland, 4: Cell, 6: Nucleus}",
    "segment.nms_iou": 0.9,
    "tissue.method": "none",
    "vectorize.simplify": 0,
    "export.overview": False,
    "export.cells": "{}",
}
DISCS = [(60 + 110 * col, 60 + 110 * row) for row in range(3) for col in range(5)]


@pytest.fixture(scope="module")
def slide(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark discs far apart, some of them on the seams of tiles."""
    image = tools.stained(600, 340, 0)
    y, x = np.mgrid[:340, :600]
    for cx, cy in DISCS:
        image[(x - cx) ** 2 + (y - cy) ** 2 < 8**2] = (60, 40, 90)
    return tools.write_tiff(tmp_path_factory.mktemp("slide") / "discs.tif", image)


def run(tools: Any, cluster: str, slide: Path, output: Path, *words: object, **settings: object) -> Path:
    chosen = GRANULAR | {key.replace("__", "."): value for key, value in settings.items()}
    done = tools.call_here("run", slide, "-o", output, "--cluster", cluster, *words, *tools.arguments(chosen))
    assert done.code == 0, done.err
    return output / "discs"


def found(folder: Path) -> list[dict[str, Any]]:
    features = json.loads((folder / "annotations.geojson").read_text())["features"]
    return [one for one in features if one["properties"]["objectType"] == "detection"]


@pytest.fixture(scope="module")
def dense(tools: Any, cluster: str, slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tools, cluster, slide, tmp_path_factory.mktemp("dense"), "-w", "nuclei", tiling__batch=1)


def test_a_dense_run_puts_cells_into_glands_and_nuclei_into_cells(tools: Any, dense: Path) -> None:
    assert tools.call_here("validate", dense / "annotations.geojson").code == 0
    glands = found(dense)
    assert len(glands) == len(DISCS)
    for gland in glands:
        assert gland["properties"]["classification"]["name"] == "Gland"
        (cell,) = gland["properties"]["childObjects"]
        assert cell["properties"]["objectType"] == "cell"
        whole, nucleus = (shapely.geometry.shape(cell[name]) for name in ("geometry", "nucleusGeometry"))
        assert whole.contains(nucleus)
        assert nucleus.area == pytest.approx(np.pi * 8**2, rel=0.1)


def test_the_table_holds_every_object_whole(dense: Path) -> None:
    table = pq.read_table(dense / "objects.parquet")
    areas = {name: [] for name in ("Gland", "Cell", "Nucleus")}
    for name, shape in zip(table["class"].to_pylist(), shapely.from_wkb(table["geometry"].to_numpy()), strict=True):
        assert not len(shape.interiors)
        areas[name].append(shape.area)
    assert [len(values) for values in areas.values()] == [len(DISCS)] * 3
    assert max(areas["Nucleus"]) < min(areas["Cell"])
    assert max(areas["Cell"]) < min(areas["Gland"])


def test_the_labels_show_the_smallest_object(dense: Path) -> None:
    pyramid = MaskPyramid.open(dense / "masks.ome.zarr")
    middle = [int(pyramid.read_labels("class", x, y, x + 1, y + 1)[0, 0]) for x, y in DISCS]
    assert set(middle) == {3}


def test_batches_do_not_change_what_is_found(
    tools: Any, cluster: str, slide: Path, dense: Path, tmp_path: Path
) -> None:
    other = run(tools, cluster, slide, tmp_path, "-w", "nuclei", tiling__batch=64)
    assert (other / "annotations.geojson").read_bytes() == (dense / "annotations.geojson").read_bytes()


def test_a_click_becomes_an_object_of_every_level(tools: Any, cluster: str, slide: Path, tmp_path: Path) -> None:
    clicks = tmp_path / "clicks.geojson"
    points = [
        {
            "type": "Feature",
            "id": f"0000000{number}-0000-4000-8000-000000000000",
            "geometry": {"type": "Point", "coordinates": xy},
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},
        }
        for number, xy in enumerate(DISCS[:3])
    ]
    clicks.write_text(json.dumps({"type": "FeatureCollection", "features": points}))
    folder = run(
        tools, cluster, slide, tmp_path / "out", "-w", "refine-annotations", "--prompts", clicks, refine="null"
    )
    assert tools.call_here("validate", folder / "annotations.geojson").code == 0
    table = pq.read_table(folder / "objects.parquet")
    assert sorted(set(table["class"].to_pylist())) == ["Tumor: Cell", "Tumor: Gland", "Tumor: Nucleus"]
    assert len(set(table["id"].to_pylist())) == len(table) == 9
    assert set(table["prompt_id"].to_pylist()) == {one["id"] for one in points}


def test_one_level_gives_one_object_of_the_clicks_own_class(
    tools: Any, cluster: str, slide: Path, tmp_path: Path
) -> None:
    folder = run(tools, cluster, slide, tmp_path, "-w", "nuclei", segment__granularity=4)
    table = pq.read_table(folder / "objects.parquet")
    assert table["class"].to_pylist() == ["Nucleus"] * len(DISCS)
