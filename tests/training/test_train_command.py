"""``train`` as people call it: interrupted, on several processes, on slides, and with data that cannot be used."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

EPOCHS, KILLS = 6, 5
QUICK = {"epochs": EPOCHS, "variants": 1, "objects": 1, "accumulate": 1, "patience": EPOCHS, "judged_objects": 1}


@pytest.fixture(scope="module")
def tiles(write_tiles: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"), {"a": "train", "b": "train", "c": "val"})


@pytest.fixture(scope="module")
def words(tools: Any, tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Words of a command that trains HQ-SAM; embeddings are shared by all tests."""
    embeddings = tmp_path_factory.mktemp("embeddings")

    def build(output: Path, *more: object, **changes: Any) -> list[str]:
        given = ["--data", tiles, "--device", "cpu", "-o", output, "--cache-embeddings", embeddings, *more]
        return ["train", "hq-sam", *map(str, given), *tools.arguments(QUICK | changes)]

    return build


def rows(output: Path) -> int:
    curves = output / "curves.csv"
    return len(curves.read_text().splitlines()) if curves.exists() else 0


@pytest.mark.slow
def test_killed_five_times_and_resumed_gives_the_same_weights(tools: Any, words: Any, tmp_path: Path) -> None:
    undisturbed = tools.call(*words(tmp_path / "whole"))
    assert undisturbed.code == 0, undisturbed.err
    dice, output = random.Random(3), tmp_path / "killed"
    for kill in range(KILLS):
        running = subprocess.Popen([*tools.command, *words(output)], stderr=subprocess.DEVNULL)
        while rows(output) < kill + 2:  # the heading, epoch 0, …
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.3))
        running.kill()
        running.wait()
        assert not (output / "hq-sam.safetensors").exists()
    last = tools.call(*words(output))
    assert last.code == 0, last.err
    assert last.out.strip() == f"weights: {output / 'hq-sam.safetensors'}"
    assert last.events[0]["epoch"] >= KILLS, "finished epochs were trained again"
    whole, resumed = (load_file(folder / "hq-sam.safetensors") for folder in (tmp_path / "whole", output))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.slow
def test_two_processes_follow_the_same_gradient_as_one(tools: Any, words: Any, tmp_path: Path) -> None:
    """Both batches of a step in one process, or one in each: the same sums, rounded in another order."""
    changes: dict[str, Any] = {"epochs": 2, "accumulate": 2}
    alone = tools.call(*words(tmp_path / "one", **changes))
    assert alone.code == 0, alone.err
    start = "from wsi_pipeline.cli import main; main()"
    script = tmp_path / "train.py"
    script.write_text(start)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    both = subprocess.run(
        [*launch, *words(tmp_path / "two", **changes)], capture_output=True, text=True, timeout=300, check=False
    )
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("weights: ") == 1
    one, two = (load_file(tmp_path / folder / "hq-sam.safetensors") for folder in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4, msg=name)


def test_groups_held_out_judge_instead_of_the_validation_samples(tools: Any, words: Any, tmp_path: Path) -> None:
    result = tools.call_here(*words(tmp_path, hold_out=0.5, epochs=1, save_as="fp16"))
    assert result.code == 0, result.err
    card = json.loads((tmp_path / "hq-sam.json").read_text())
    assert sorted(card["groups"]["train"] + card["groups"]["held-out"]) == ["a", "b"]
    assert {value.dtype for value in load_file(tmp_path / "hq-sam.safetensors").values()} == {torch.float16}


def test_annotations_over_a_slide_are_trained_on(tools: Any, words: Any, tmp_path: Path) -> None:
    """One slide is one group: nothing can judge, and the last epoch counts."""
    image = np.full((700, 700, 3), (228, 200, 215), np.uint8)
    image[300:380, 300:400] = (98, 66, 138)
    slide = tools.write_tiff(tmp_path / "case.tif", image)
    outline = [[300, 300], [400, 300], [390, 380], [300, 380], [300, 300]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [outline]}, "properties": {}}
    drawn = tmp_path / "drawn.geojson"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    given = ["--data", drawn, "--slide", slide, "--device", "cpu", "-o", tmp_path / "out"]
    judged = tools.call_here("train", "hq-sam", *given, *tools.arguments(QUICK | {"hold_out": 0.2}))
    assert judged.code == 2
    assert "hold_out: one group cannot be trained on and judged by. Add patients, or --set judged=false" in judged.err
    trained = tools.call_here("train", "hq-sam", *given, *tools.arguments(QUICK | {"judged": False, "epochs": 1}))
    assert trained.code == 0, trained.err
    card = json.loads((tmp_path / "out" / "hq-sam.json").read_text())
    assert card["groups"] == {"train": ["case"]}
    assert card["metrics"] is None
    missing = tools.call_here("train", "hq-sam", "--data", drawn, "-o", tmp_path / "out")
    assert "--slide: 1 files of annotations need a slide each, 0 slides were given" in missing.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hold_out": 0.5}, "hold_out: points show no outlines that epochs could be judged by. Set judged to false"),
        ({}, "judged: points show no outlines that epochs could be judged by. Set judged to false"),
    ],
)
def test_nothing_is_judged_by_points(tools: Any, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    given = [word for name in "ab" for word in ("--data", f"{name}.geojson", "--slide", f"{name}.svs")]
    result = tools.call_here("train", "sapnet", *given, "-o", tmp_path / "out", *tools.arguments(changes))
    assert result.code == 2
    assert said in result.err.splitlines()[-1]


def test_points_may_be_held_out_no_more_beside_tiles(tools: Any, tiles: Path, tmp_path: Path) -> None:
    given = ["--data", tiles, "--data", "a.geojson", "--slide", "a.svs", "-o", tmp_path / "out"]
    result = tools.call_here("train", "sapnet", *given, *tools.arguments({"hold_out": 0.5}))
    assert "hold_out: points show no outlines" in result.err
    result = tools.call_here("train", "sapnet", *given)
    assert "a.geojson: no such file or folder" in result.err, "the tiles of the split val judge"


def spoil_size(folder: Path) -> None:
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(folder / "b.mask.png")


def spoil_masks(folder: Path) -> None:
    for path in folder.glob("*.mask.png"):
        Image.fromarray(np.zeros((256, 256), np.uint8)).save(path)


def spoil_split(folder: Path) -> None:
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("val,c", "val,a"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_size, "line 3: b.mask.png is 9 x 8 px, its image 256 x 256"),
        (spoil_masks, "val: no validation sample shows an object"),
        (spoil_split, "split leak: group a is in train and val"),
    ],
)
def test_data_that_cannot_be_trained_on_is_one_clear_line(
    tools: Any, write_tiles: Callable[..., Path], tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = write_tiles(tmp_path / "tiles", {"a": "train", "b": "train", "c": "val"})
    spoil(folder)
    output = tmp_path / "out"
    result = tools.call_here("train", "hq-sam", "--data", folder, "-o", output, *tools.arguments(QUICK))
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err
    assert not (output / "hq-sam.safetensors").exists()


def test_training_tiles_without_objects_are_said(tools: Any, write_tiles: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tiles(tmp_path / "tiles", {"a": "train", "c": "val"})
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(folder / "a.mask.png")
    result = tools.call_here("train", "hq-sam", "--data", folder, "-o", tmp_path / "out", *tools.arguments(QUICK))
    assert result.code == 2
    assert "train: no sample shows an object in epoch 1. Check the data, or lower min_object" in result.err


@pytest.mark.slow
def test_full_disk_while_caching_is_one_clear_line(tools: Any, tiles: Path, tmp_path: Path) -> None:
    limit = 1_000_000
    done = subprocess.run(
        [*tools.command, "train", "hq-sam", "--data", str(tiles), "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=os.environ.copy(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert not list((tmp_path / "out").rglob("*.safetensors"))
