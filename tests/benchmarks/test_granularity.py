"""The benchmark of granularity learns from scenes with half of the names, and its page shows what was missed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.granularity import measuring
from benchmarks.granularity.measuring import Found, order_of, order_within
from benchmarks.granularity.page import render
from benchmarks.granularity.study import Options, checks, run
from benchmarks.granularity.subjects import drawn_scenes
from benchmarks.granularity.training import BY_SIZE, MANY, MATCHINGS, ONE
from benchmarks.nested_scenes import OBJECTS, PARTS
from wsi_pipeline.training import semantic_sam_head
from wsi_pipeline.training.sources import TRAIN, VALIDATION

TINY = {
    "clicks": 4,
    "points": 64,
    "judged_clicks": 4,
    "network.width": 32,
    "network.ffn": 32,
    "network.layers": 1,
    "optimiser.warm_up": 0,
}
GOOD = {
    "recall": 0.9,
    "best_iou": 0.9,
    "order": 0.95,
    "within": 0.95,
    "said": 0.9,
    "dice": 0.92,
    "objects": 0.9,
    "parts": 0.9,
    "apart": 1e-6,
}


def found(**of_many: float) -> dict[str, Any]:
    """What the study gives where all went well."""
    structures = {"cells": {"masks": 40, "best_iou": 0.8, "recall": 0.75}}
    network = {"steps": 100, "minutes": 2.0, "levels": (0, 1, 2, 3, 4, 5), "areas": [0.1] * 6, "structures": structures}
    scores = {MANY: GOOD | of_many, BY_SIZE: GOOD, ONE: GOOD | {"recall": 0.5}}
    recipe = {"network": {"width": 64, "layers": 3}, "clicks": 32}
    networks = {matching: [network | {"scores": scores[matching]}] for matching in MATCHINGS}
    return {
        "train": 8,
        "test": 2,
        "pieces": 8,
        "clicks": 512,
        "seeds": [0],
        "recipe": recipe,
        "networks": networks,
        "true": {"areas": [0.1] * 6, "order": 0.8, "within": 0.9},
        "tiles": None,
    }


def test_a_scene_to_learn_from_names_objects_or_parts_and_one_to_measure_on_both() -> None:
    source = drawn_scenes(2, 1)
    objects, parts = (set(source[number].classes) - {""} for number in source.numbers(TRAIN))
    assert objects <= set(OBJECTS)
    assert parts <= set(PARTS)
    assert set(source[source.numbers(VALIDATION)[0]].classes) <= {*OBJECTS, *PARTS}
    groups = [{source.infos[number].group for number in source.numbers(split)} for split in (TRAIN, VALIDATION)]
    assert groups[0].isdisjoint(groups[1])


def test_coarse_levels_ought_to_be_large() -> None:
    areas = np.array([[0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    assert order_of(areas) == pytest.approx(1)
    assert order_of(areas[:, ::-1]) == pytest.approx(-1)


def test_the_order_among_answers_to_a_click_leaves_out_clicks_whose_answers_are_alike() -> None:
    falling = np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert order_within(np.stack([falling, falling / 100, np.ones(6)])) == pytest.approx(1)
    assert order_within(np.stack([falling, falling[::-1]])) == pytest.approx(0)
    shared = np.array([[0.3, 0.3, 0.2, 0.2, 0.1, 0.1]])
    assert order_within(shared) == pytest.approx(spearmanr(shared[0], -np.arange(6)).statistic)


def test_recall_counts_masks_of_the_names_that_are_asked_for() -> None:
    some = Found(np.array(["gland", "nucleus"]), np.array([0.8, 0.5]), np.zeros(2), np.zeros(2, bool), np.zeros((1, 6)))
    assert some.recall == 0.5
    assert some.of("gland").recall == 1
    assert some.of("nucleus").dice.tolist() == [pytest.approx(2 / 3)]


def test_the_page_shows_what_was_missed() -> None:
    assert all(one.reached for matching in (MANY, BY_SIZE) for one in checks(found(), matching))
    missed = found(recall=0.6, parts=0.5, said=0.7)
    assert [one.reached for one in checks(missed, MANY)] == [False, False, True, False, True, False, True]
    page = render(missed, "the command")
    assert page.count("**no**") == 4
    assert "| cells | 40 | 0.750 | 0.750 | 0.750 | 0.800 | 0.800 | 0.800 |" in page
    assert "## Tiles" not in page


def test_the_page_shows_tiles_beside_other_models() -> None:
    scores = {"gland": {"best": 0.5, "surest": 0.4}, "nucleus": {"best": 0.7, "surest": 0.6}}
    tiles = {"file": "levels.safetensors", "sha256": "a" * 64, "clicks": {"gland": 3, "nucleus": 9}}
    page = render(found() | {"tiles": tiles | {"models": {"semantic-sam": scores}}}, "the command")
    assert "| semantic-sam | 0.500 | 0.400 | 0.700 | 0.600 |" in page
    assert "3 of gland, 9 of nucleus" in page


def test_it_learns_measures_and_remembers(
    small_sam: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic_sam_head, "load_sam", lambda plan: small_sam())
    monkeypatch.setattr(measuring, "TOGETHER", 8)
    monkeypatch.setattr(measuring, "ALONE", 2)
    options = Options(tmp_path, train=2, test=1, epochs=1, seeds=(0,), changes=TINY)
    once = run(options)
    assert all(one["steps"] == 2 for (one,) in once["networks"].values())
    assert once["networks"][MANY][0]["scores"]["apart"] < 1e-4
    again = run(options)
    assert json.dumps(again) == json.dumps(once)
    assert render(again, "the command").startswith("# Granularity from one click")
