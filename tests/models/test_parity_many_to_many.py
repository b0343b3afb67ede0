"""Pairs of answers and targets, and what they lose, equal the published code of Semantic-SAM, number for number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from wsi_pipeline.models.semantic_sam.answers import GUESSES, Answers
from wsi_pipeline.training.many_to_many import (
    BOX_WEIGHT,
    DICE_WEIGHT,
    GIOU_WEIGHT,
    MASK_WEIGHT,
    Targets,
    block_costs,
    pair_costs,
)
from wsi_pipeline.training.semantic_sam_loss import QUALITY_WEIGHT, chosen, pair_losses, token_of_targets

WEIGHTS = {
    "mask": ("loss_mask_bce_0", MASK_WEIGHT),
    "dice": ("loss_mask_dice_0", DICE_WEIGHT),
    "box": ("loss_bbox_0", BOX_WEIGHT),
    "giou": ("loss_giou_0", GIOU_WEIGHT),
    "quality": ("iou_score_loss_0", QUALITY_WEIGHT),
}


class Recorded(NamedTuple):
    """Three clicks on five nested ellipses."""

    answers: Answers
    targets: Targets
    stored: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def recorded(golden) -> Recorded:
    stored = {
        name.removeprefix("m2m_"): value
        for name, value in golden("semantic_functions").items()
        if name.startswith("m2m_")
    }
    height, width = stored["gt_hw"]
    truth = np.unpackbits(stored["gt_masks"], axis=1)[:, : height * width].reshape(-1, height, width)
    click, target = np.nonzero(stored["click_targets"] >= 0)
    rows = stored["click_targets"][click, target]
    masks = torch.from_numpy(truth[rows]).float()
    nothing = torch.full((len(rows),), -1)
    targets = Targets(
        torch.from_numpy(click),
        masks,
        torch.zeros_like(masks),
        torch.from_numpy(stored["gt_boxes"][rows]),
        nothing,
        nothing,
    )
    masks, boxes, quality = (torch.from_numpy(stored[f"pred_{name}"]) for name in ("masks", "boxes", "ious"))
    answers = Answers(masks.unflatten(1, (-1, GUESSES)), quality, boxes.unflatten(1, (-1, GUESSES)), None, None)
    return Recorded(answers, targets, stored)


def test_costs_of_a_click_are_its_own_block(recorded: Recorded) -> None:
    answers, targets, stored = recorded
    assert answers.masks is not None
    points = torch.from_numpy(stored["match_points"])[0]
    costs = pair_costs(answers.masks[0], answers.boxes[0], targets, points)
    np.testing.assert_allclose(block_costs(costs, targets.click, 3), stored["cost"], rtol=1e-6, atol=1e-5)


def test_pairs(recorded: Recorded) -> None:
    token = tokens(recorded)
    query = GUESSES * recorded.targets.click + token
    order = query.argsort()
    assert query[order].tolist() == recorded.stored["match_query"].tolist()
    assert order.tolist() == recorded.stored["match_target"].tolist()


def test_losses_of_pairs(recorded: Recorded) -> None:
    answers, targets, stored = recorded
    points = torch.from_numpy(stored["loss_points"])
    # points were drawn for pairs in the order of answers
    points = points[torch.from_numpy(stored["match_target"]).argsort()]
    found = pair_losses(chosen(answers, targets.click, tokens(recorded)), targets, points)
    assert found.keys() == WEIGHTS.keys()
    for name, (published, weight) in WEIGHTS.items():
        np.testing.assert_allclose(found[name] / weight, stored[published], atol=1e-5, err_msg=name)


def tokens(recorded: Recorded) -> Tensor:
    points = torch.from_numpy(recorded.stored["match_points"])[0]
    return token_of_targets(recorded.answers, recorded.targets, points)
