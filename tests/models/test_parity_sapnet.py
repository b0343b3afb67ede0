"""SAPNet equals the published code: choices and masks exactly, numbers to rounding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from wsi_pipeline.models.sapnet.generator import Negatives, negatives, positives
from wsi_pipeline.models.sapnet.guidance import point_distance_guidance
from wsi_pipeline.models.sapnet.matrix_nms import matrix_nms
from wsi_pipeline.models.sapnet.refinement import nearest_proposal, ranked_proposals, refine_proposals
from wsi_pipeline.models.sapnet.scores import class_scores
from wsi_pipeline.models.sapnet.selection import Choice, Clicks, select_proposals
from wsi_pipeline.models.sapnet.settings import SapNetSettings
from wsi_pipeline.models.sapnet.solo_head import SoloHead, SoloMaps
from wsi_pipeline.models.sapnet.solo_results import draw, find
from wsi_pipeline.training.sapnet_loss import (
    bag_loss,
    category_loss,
    generalised_focal,
    mask_loss,
    negative_loss,
    positive_loss,
)
from wsi_pipeline.training.solo_targets import SoloTargets, shrink, solo_targets

Stored = dict[str, Tensor]

PUBLISHED = SapNetSettings.published(("a", "b", "c"))
SELECTOR = PUBLISHED.selector
GRIDS = (10, 9, 6, 4, 3)
SOLO = PUBLISHED.solo.model_copy(update={"grids": GRIDS})
OFFSETS = list(accumulate((grid**2 for grid in GRIDS), initial=0))
SIZE = 128


def stored_tensors(arrays: dict[str, np.ndarray]) -> Stored:
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


def close(got: Tensor, wanted: Tensor) -> None:
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-6, atol=1e-5)


def same(got: Tensor, wanted: Tensor) -> None:
    np.testing.assert_array_equal(got.numpy(), wanted.numpy())


def unpacked(rows: Tensor, *shape: int) -> Tensor:
    """Masks that were stored as bits."""
    bits = np.unpackbits(rows.numpy(), axis=1)[:, : np.prod(shape)]
    return torch.from_numpy(bits).bool().unflatten(1, shape)


@pytest.fixture(scope="module")
def stored(golden: Callable[[str], dict[str, np.ndarray]]) -> Stored:
    return stored_tensors(golden("sapnet_proposals"))


@pytest.fixture(scope="module")
def stored_head(golden: Callable[[str], dict[str, np.ndarray]]) -> Stored:
    return stored_tensors(golden("sapnet_instance_head"))


@pytest.fixture(scope="module")
def clicks(stored: Stored) -> Clicks:
    index = torch.arange(2).repeat_interleave(stored["ref_objects_per_image"])
    return Clicks(stored["ref_points"], stored["ref_labels"], index, stored["ref_proposals"])


@pytest.fixture(scope="module")
def guidance(clicks: Clicks) -> Tensor:
    return point_distance_guidance(clicks.points, clicks.labels, clicks.image_index, clicks.proposals)


@pytest.fixture(scope="module")
def first(stored: Stored, clicks: Clicks, guidance: Tensor) -> Choice:
    logits = stored["ref_stage0_cls_logits"], stored["ref_stage0_ins_logits"]
    return select_proposals(*logits, clicks, guidance, SELECTOR)


@pytest.fixture(scope="module")
def second(stored: Stored, clicks: Clicks) -> Choice:
    logits = stored["ref_stage1_cls_logits"], stored["ref_stage1_ins_logits"]
    return refine_proposals(*logits, clicks, stored["ref_stage1_proposals"], SELECTOR)


@pytest.fixture(scope="module")
def none(stored: Stored, clicks: Clicks, first: Choice) -> Negatives:
    return negatives(first, clicks, stored["ref_image_hw"], SELECTOR, uniforms=stored["neg_uniforms"])


@pytest.fixture(scope="module")
def bag(stored: Stored) -> Choice:
    cls, ins = stored["mil_cls_logits"], stored["mil_ins_logits"]
    boxes, scores = torch.zeros(*cls.shape[:2], 4), torch.zeros(cls.shape[:2])
    return Choice(cls, ins, boxes, scores, scores.argmax(dim=1), boxes[:, 0], boxes[:, 0], None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gaussian", {}),
        ("linear", {"kernel": "linear"}),
        ("gaussian_limits", {"min_score": 0.05, "candidates": 20, "most": 10}),
    ],
)
def test_matrix_nms(stored: Stored, name: str, options: dict) -> None:
    count, *shape = stored["nms_shape"].tolist()
    masks, labels = unpacked(stored["nms_masks"], *shape), stored["nms_labels"]
    assert len(masks) == count
    scores, kept = matrix_nms(masks, labels, stored["nms_scores"], **options)
    close(scores, stored[f"nms_{name}_scores"])
    same(kept, stored[f"nms_{name}_keep"])
    same(labels[kept], stored[f"nms_{name}_labels"])


def test_losses_of_bags(stored: Stored, bag: Choice) -> None:
    labels, weights = stored["mil_labels"], stored["mil_weights"]
    close(SELECTOR.weight * bag_loss(bag, labels, weights), stored["mil_bce_loss"])
    close(SELECTOR.alpha * positive_loss(bag, labels, weights), stored["mil_gfocal_loss"])
    named = class_scores(bag.cls_logits, bag.ins_logits).sum(dim=1).argmax(dim=1)
    close((named == labels).float().mean()[None], stored["mil_bag_accuracy"])


def test_generalised_focal_loss(stored: Stored) -> None:
    close(generalised_focal(stored["gfocal_p"], stored["gfocal_q"]), stored["gfocal_value"])


def test_first_choice(stored: Stored, first: Choice) -> None:
    close(first.scores, stored["ref_stage0_score"])
    close(first.before_mining, stored["ref_stage0_box_before_bms"])
    close(first.box, stored["ref_stage0_box"])
    close(first.weight, stored["ref_stage0_object_weight"])
    close(first.cls_logits, stored["ref_stage0_cls_logits_after_pdg"])
    close(SELECTOR.weight * bag_loss(first, stored["ref_labels"]), stored["ref_stage0_loss"])


def test_boxes_around_the_first_choice(stored: Stored, first: Choice, guidance: Tensor) -> None:
    close(positives(first, guidance, published=True), stored["ref_stage1_proposals"])


def test_boxes_that_show_no_object(stored: Stored, none: Negatives) -> None:
    for image in range(2):
        here = none.image_index == image
        close(none.boxes[here], stored[f"neg_boxes_image{image}"])
        same(none.valid[here], stored[f"neg_valid_image{image}"])


def test_second_choice(stored: Stored, clicks: Clicks, second: Choice) -> None:
    close(second.scores, stored["ref_stage1_score"])
    close(second.before_mining, stored["ref_stage1_box_before_bms"])
    close(second.box, stored["ref_stage1_box"])
    same(nearest_proposal(second.box, clicks), stored["ref_selected_mask_index"])
    same(ranked_proposals(second.scores, clicks), stored["ref_mask_rank_order"])


def test_losses_of_the_second_choice(stored: Stored, first: Choice, second: Choice, none: Negatives) -> None:
    positive = SELECTOR.alpha * positive_loss(second, stored["ref_labels"], first.weight)
    negative = (1 - SELECTOR.alpha) * negative_loss(stored["neg_cls_logits"][none.valid], first.weight)
    close(positive, stored["ref_stage1_loss_pos"])
    close(negative, stored["ref_stage1_loss_neg"])


def test_box_mining_where_it_acts(stored: Stored) -> None:
    proposals, labels = stored["bms_proposals"], stored["bms_labels"]
    clicks = Clicks(torch.zeros(len(labels), 2), labels, torch.arange(len(labels)), proposals)
    logits = stored["bms_cls_logits"], stored["bms_ins_logits"]
    chosen = select_proposals(*logits, clicks, torch.ones(proposals.shape[:2]), SELECTOR)
    close(chosen.scores, stored["bms_score"])
    close(chosen.before_mining, stored["bms_box_before"])
    close(chosen.box, stored["bms_box_after"])
    assert (chosen.box != chosen.before_mining).any(dim=1).sum() == 7


@pytest.fixture(scope="module")
def maps(weights: ModuleType) -> SoloMaps:
    head = weights.fill_(SoloHead(3, 64, 64, 2, 32, 32, GRIDS).eval(), "mask_head.")
    levels = [weights.normal_input(f"sapnet_fpn{i}", (1, 64, 32 >> i, 32 >> i), 0.5) for i in range(5)]
    with torch.no_grad():
        return head(levels)


@pytest.fixture(scope="module")
def truth(stored_head: Stored) -> Tensor:
    return unpacked(stored_head["gt_masks_packed"], SIZE, SIZE)


@pytest.fixture(scope="module")
def targets(stored_head: Stored, truth: Tensor) -> SoloTargets:
    boxes, labels = stored_head["gt_boxes"], stored_head["gt_labels"]
    index = torch.zeros(len(labels), dtype=torch.int64)
    return solo_targets(
        truth, boxes, labels, index, images=1, classes=3, grids=GRIDS, scale_ranges=SOLO.scale_ranges, sigma=SOLO.sigma
    )


def test_instance_head(stored_head: Stored, maps: SoloMaps) -> None:
    for level in range(5):
        close(maps.kernels[level][:, ::4], stored_head[f"kernel_level{level}"])
        close(maps.categories[level], stored_head[f"category_level{level}"])
    close(maps.feature[:, ::4], stored_head["mask_feature"])


@pytest.mark.parametrize("level", range(5))
def test_targets_of_the_instance_head(stored_head: Stored, truth: Tensor, targets: SoloTargets, level: int) -> None:
    begin, end = OFFSETS[level : level + 2]
    same(targets.labels[0, begin:end].view(GRIDS[level], -1), stored_head[f"target_labels_level{level}"])
    here = (targets.cell >= begin) & (targets.cell < end)
    same(targets.cell[here] - begin, stored_head[f"target_positive_level{level}"])
    areas = shrink(truth, 4).sum(dim=(1, 2))[targets.object[here]]
    same(areas, stored_head[f"target_mask_area_level{level}"])


def test_losses_of_the_instance_head(stored_head: Stored, maps: SoloMaps, truth: Tensor, targets: SoloTargets) -> None:
    close(SOLO.dice * mask_loss(maps, targets, shrink(truth, 4)[:, None], extra=0.5), stored_head["loss_mask"])
    close(category_loss(maps, targets), stored_head["loss_cls"])


def test_results_of_the_instance_head(stored_head: Stored, maps: SoloMaps) -> None:
    (found,) = find(maps, (SIZE, SIZE), SOLO, cell_score=0.3, max_objects=100)
    close(found.scores, stored_head["result_scores"])
    same(found.labels, stored_head["result_labels"])
    masks = draw(found, (SIZE, SIZE), torch.zeros(len(found), 2, dtype=torch.int64), SIZE) > 0
    same(masks.sum(dim=(1, 2)), stored_head["result_mask_area"])
    same(masks[:4], unpacked(stored_head["result_masks_packed"], SIZE, SIZE))
