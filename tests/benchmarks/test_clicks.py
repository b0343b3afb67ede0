"""The benchmark of clicks: its drawn cells, its networks, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cell_scenes import CELLS, LOOKS, PROPOSALS, draw_cells
from benchmarks.clicks import study
from benchmarks.clicks.choosing import FULL, MIL, WAYS, ious, of_sam
from benchmarks.clicks.page import render
from benchmarks.clicks.study import CHOSEN, SAM_TOP, TRUE, Options, passed, run

SMALL = {"seeds": (1,), "scenes": 2, "test": 1, "steps": 2, "branch_steps": 2}


@pytest.mark.parametrize("look", LOOKS)
def test_cells_do_not_touch_and_the_second_proposal_is_the_cell(look: str) -> None:
    scene = draw_cells(3, LOOKS[look])
    assert scene.proposals.shape[:2] == (CELLS, len(PROPOSALS))
    assert scene.cells.sum(axis=0).max() == 1
    assert np.array_equal(scene.proposals[:, 1], scene.cells)
    assert all(scene.cells[cell][tuple(scene.points[cell, ::-1].astype(int))] for cell in range(CELLS))


def test_scenes_of_a_seed_are_the_same_and_others_differ() -> None:
    first, again, other = (draw_cells(seed, LOOKS["S1c"]) for seed in (3, 3, 4))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first.image, other.image)


def test_sam_takes_the_nucleus_most_often() -> None:
    scenes = [draw_cells(seed, LOOKS["S1c"]) for seed in range(8)]
    chosen = np.concatenate(of_sam(scenes))
    assert np.bincount(chosen, minlength=len(PROPOSALS)).argmax() == PROPOSALS.index("nucleus")
    assert (ious(scenes[0], np.ones(CELLS, np.int64)) == 1).all()


def test_plain_mil_has_nothing_of_what_the_method_adds() -> None:
    plain = WAYS[MIL]
    assert (plain.guidance, plain.mining, plain.refine) == ("none", False, False)


def test_networks_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(tmp_path, **SMALL)
    found = run(options)
    for name in ("trained_selector", "trained_branch"):
        monkeypatch.setattr(study, name, None)
    assert run(options) == found
    page = render(found)
    assert page.startswith("# What a click means\n")
    assert all(way in page for way in (*WAYS, SAM_TOP, CHOSEN))
    assert "## Nuclei" not in page


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, set()),
        ({"seeds": [1.0, 1.0, 0.4]}, {"every seed above SAM"}),
        ({"mil": 0.7}, {"above plain MIL"}),
        ({"branch": 0.7}, {"branch"}),
        ({"nuclei": 0.51}, {"nuclei"}),
    ],
)
def test_what_falls_short_is_said(change: dict[str, Any], missed: set[str]) -> None:
    told = {"seeds": [1.0, 0.9, 0.8], "mil": 0.3, "branch": 0.9, "nuclei": 0.6} | change
    looks = {
        "S1c": {FULL: told["seeds"], MIL: [told["mil"]], SAM_TOP: [0.35]},
        "S1a": {FULL: [1.0]},
    }
    cells = {"looks": looks, "branch": {CHOSEN: [told["branch"]], TRUE: [1.0]}}
    reached = passed(cells, {"chosen": told["nuclei"], "sam": 0.5})
    assert {name for name, yes in reached.items() if not yes} == missed
