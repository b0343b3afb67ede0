"""Semantic-SAM's losses (Li et al. 2023): of pairs of an answer and a true mask, alike for all layers of the decoder.

Layout: T pairs; B images, n clicks on each, click c being on image ``c // n``; K points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from wsi_pipeline.models.semantic_sam.answers import Answers
from wsi_pipeline.training.draws import uniform
from wsi_pipeline.training.many_to_many import (
    BOX_WEIGHT,
    DICE_WEIGHT,
    GIOU_WEIGHT,
    MASK_WEIGHT,
    STRAY,
    Targets,
    compare_boxes,
    compare_masks,
    match,
    pair_costs,
    spread_by_size,
)
from wsi_pipeline.training.point_sampling import PointSampling, read_at, sample_points

QUALITY_WEIGHT, CLASS_WEIGHT = 1.0, 4.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
"""Published; Mask DINO's."""


class Chosen(NamedTuple):
    """The answers that learn from T targets; as in ``Answers``, (T, ...) instead of (B, n, 6, ...)."""

    masks: Tensor
    quality: Tensor
    boxes: Tensor
    objects: Tensor | None
    parts: Tensor | None


def semantic_losses(
    layers: Sequence[Answers],
    targets: Targets,
    sampling: PointSampling,
    generator: torch.Generator,
    *,
    by_size: bool = False,
) -> dict[str, Tensor]:
    """Weighted losses by name, scalars: means over pairs, summed over layers.

    Pairs are made by what the last layer says, and all layers learn from the same ones.

    Args:
        layers: what each layer says, masks included.
        targets: of the B * n clicks, by click.
        sampling: points of each pair's masks.
        generator: of all draws.
        by_size: pairs are made by the sizes of the true masks instead, see ``spread_by_size``.
    """
    if by_size:
        targets, token = spread_by_size(targets)
    else:
        token = token_of_targets(layers[-1], targets, uniform((sampling.count, 2), generator, targets.masks.device))
    found = []
    for layer in layers:
        answers = chosen(layer, targets.click, token)
        points = sample_points(answers.masks[None], sampling, generator)
        found.append(pair_losses(answers, targets, points[0]))
    return {name: torch.stack([losses[name] for losses in found]).sum() for name in found[0]}


@torch.no_grad()
def token_of_targets(answers: Answers, targets: Targets, points: Tensor) -> Tensor:
    """(T,) int64: the answer that learns from each target, where masks are compared at points (K, 2)."""
    assert answers.masks is not None
    masks, boxes = answers.masks.flatten(0, 1), answers.boxes.flatten(0, 1)
    return match(pair_costs(masks, boxes, targets, points), targets.click, len(boxes))


def chosen(answers: Answers, click: Tensor, token: Tensor) -> Chosen:
    """Answers (T,) of these clicks."""
    return Chosen(*(None if one is None else one.flatten(0, 1)[click, token] for one in answers))  # type: ignore[arg-type]


def pair_losses(answers: Chosen, targets: Targets, points: Tensor) -> dict[str, Tensor]:
    """Weighted losses by name, scalars, of pairs whose masks are compared at points (T, K, 2)."""
    maps = answers.masks, targets.masks, targets.unknown
    said, true, stray = (read_at(one[None], points[None])[0] for one in maps)
    of_masks = compare_masks(said, true, stray < STRAY)
    of_boxes = compare_boxes(answers.boxes, targets.boxes)
    losses = {
        "mask": MASK_WEIGHT * of_masks.bce.mean(),
        "dice": DICE_WEIGHT * of_masks.dice.mean(),
        "box": BOX_WEIGHT * of_boxes.l1.mean(),
        "giou": GIOU_WEIGHT * of_boxes.giou.mean(),
        # published: a Dice, although it is called an IoU
        "quality": QUALITY_WEIGHT * F.mse_loss(answers.quality, 1 - of_masks.dice.detach()),
    }
    for name, logits, labels in (
        ("object", answers.objects, targets.objects),
        ("part", answers.parts, targets.parts),
    ):
        if logits is not None:
            losses[name] = CLASS_WEIGHT * class_loss(logits, labels)
    return losses


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss of one head: a sum over the labelled pairs by the number of all.

    A pair whose label is -1 is a thing that this head knows nothing about, and adds nothing.

    Args:
        logits: (T, K).
        labels: (T,) int64, -1 to K - 1.
    """
    told = labels >= 0
    true = F.one_hot(labels[told], logits.shape[1]).to(logits)
    lost = sigmoid_focal_loss(logits[told], true, FOCAL_ALPHA, FOCAL_GAMMA, reduction="sum")
    return lost / len(labels)
