"""All objects at once give what one after the other gives, and sooner."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks import selecting
from wsi_pipeline.models.sapnet.matrix_nms import matrix_nms
from wsi_pipeline.models.sapnet.solo_results import find
from wsi_pipeline.training.solo_targets import solo_targets

SHOWN = selecting.random_objects(60)


def test_scores_are_lowered_as_pair_by_pair() -> None:
    scores, kept = matrix_nms(SHOWN.masks, SHOWN.labels, SHOWN.scores)
    expected = selecting.nms_by_pairs(SHOWN.masks, SHOWN.labels, SHOWN.scores)
    assert (expected < SHOWN.scores).any()
    torch.testing.assert_close(scores, expected[kept])
    assert len(kept) == len(expected)


def test_cells_answer_for_the_same_objects_as_one_after_the_other() -> None:
    targets = solo_targets(
        SHOWN.masks,
        SHOWN.boxes,
        SHOWN.labels,
        torch.zeros(60, dtype=torch.int64),
        images=1,
        classes=2,
        grids=selecting.SOLO.grids,
        scale_ranges=selecting.SOLO.scale_ranges,
        sigma=selecting.SOLO.sigma,
    )
    pairs = sorted(zip(targets.cell.tolist(), targets.object.tolist(), strict=True))
    assert pairs == selecting.targets_by_objects(SHOWN, selecting.SOLO)
    assert set(targets.object.tolist()) == set(range(60))


def test_all_at_once_are_quicker() -> None:
    ratios = selecting.measure(120)
    assert ratios["matrix_nms"] > 5
    assert ratios["targets"] > 1


def test_every_disc_of_a_crowded_patch_is_found() -> None:
    (found,) = find(selecting.crowded_maps(100, 256), (256, 256), selecting.SOLO, cell_score=0.1, max_objects=100)
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert len({(int(x // 25.6), int(y // 25.6)) for x, y in middles.tolist()}) == 100
