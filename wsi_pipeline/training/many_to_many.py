"""Which of a click's six answers learns from which of the true masks around it (Semantic-SAM, Li et al. 2023, §3.3).

A click in a nucleus is a click in a cell and in a gland, too: all of them are right, each for another answer, and
answers that none of them needs are told nothing. Answers and masks are paired so that costs add up to the least.

Layout: C clicks; T targets, each a true mask around one of the clicks; K points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss

from wsi_pipeline.models.semantic_sam.answers import GUESSES
from wsi_pipeline.training.losses import MaskLoss, mask_loss

MASK_WEIGHT, DICE_WEIGHT, BOX_WEIGHT, GIOU_WEIGHT = 5.0, 5.0, 5.0, 2.0
"""Published, of costs and of losses alike."""
FORBIDDEN = 1e6
"""Cost of an answer to another click."""
STRAY = 0.001
"""Share of a bilinear value that may come from px that nobody knows."""


class Targets(NamedTuple):
    """What is true of clicks.

    Attributes:
        click: (T,) int64 number of the click; at most six targets have the same one.
        masks: (T, H, W) float32, 0 or 1.
        unknown: (T, H, W) float32, 1 where nobody knows, else 0.
        boxes: (T, 4) float32 cx, cy, w, h as shares of the image.
        objects, parts: (T,) int64 number of the class, -1 where that head is not told.
    """

    click: Tensor
    masks: Tensor
    unknown: Tensor
    boxes: Tensor
    objects: Tensor
    parts: Tensor


class BoxLoss(NamedTuple):
    """How far boxes are from the true ones.

    Attributes:
        l1: sum of the differences of cx, cy, w and h.
        giou: 1 - generalised IoU.
    """

    l1: Tensor
    giou: Tensor


def pair_costs(masks: Tensor, boxes: Tensor, targets: Targets, points: Tensor) -> Tensor:
    """What it costs that an answer learns from a target.

    Args:
        masks: (C, 6, h, w) logits.
        boxes: (C, 6, 4) cx, cy, w, h.
        targets: T of these clicks.
        points: (K, 2) float32 (x, y) in [0, 1], the same for all masks.

    Returns:
        (T, 6) float32, of the answers to the target's own click.
    """
    said = _read_together(masks.flatten(0, 1), points).unflatten(0, (-1, GUESSES))[targets.click]
    true, stray = _read_together(targets.masks, points), _read_together(targets.unknown, points)
    found = compare_masks(said, true[:, None].expand_as(said), (stray < STRAY)[:, None].expand_as(said))
    apart = compare_boxes(boxes[targets.click], targets.boxes[:, None])
    of_masks = MASK_WEIGHT * found.bce + DICE_WEIGHT * found.dice
    return of_masks + BOX_WEIGHT * apart.l1 + GIOU_WEIGHT * (apart.giou - 1)


def compare_masks(logits: Tensor, target: Tensor, where: Tensor) -> MaskLoss:
    """Both losses (...) of each mask (..., K) that is given at points, as far as ``where`` says."""
    each = torch.vmap(lambda one, true, known: mask_loss(one, true, where=known))
    losses = each(*(part.flatten(0, -2) for part in (logits, target, where)))
    return MaskLoss(*(one.view(logits.shape[:-1]) for one in losses))


def compare_boxes(boxes: Tensor, target: Tensor) -> BoxLoss:
    """Both losses (...) of boxes (..., 4) cx, cy, w, h."""
    edges = (box_convert(one, "cxcywh", "xyxy") for one in (boxes, target.expand_as(boxes)))
    return BoxLoss((boxes - target).abs().sum(-1), generalized_box_iou_loss(*edges))


def block_costs(costs: Tensor, click: Tensor, clicks: int) -> np.ndarray:
    """Costs (T, 6) as those of all answers with all targets, (6 C, T) float64: whoever is asked of another click may
    not learn."""
    dense = np.full((GUESSES * clicks, len(click)), FORBIDDEN)
    mine = GUESSES * click.cpu().numpy()[:, None] + np.arange(GUESSES)
    dense[mine, np.arange(len(click))[:, None]] = costs.detach().cpu().numpy()
    return dense


def match(costs: Tensor, click: Tensor, clicks: int) -> Tensor:
    """(T,) int64: the answer, 0 to 5, that learns from each target; targets of one click have different ones.

    Args:
        costs: (T, 6), see ``pair_costs``.
        click: (T,) int64.
        clicks: C.
    """
    rows, columns = linear_sum_assignment(block_costs(costs, click, clicks))
    token = np.empty(len(click), np.int64)
    token[columns] = rows % GUESSES
    return torch.from_numpy(token).to(click.device)


def spread_by_size(targets: Targets) -> tuple[Targets, Tensor]:
    """Every answer learns: the first from the largest mask around its click, the last from the smallest.

    Neighbours share a mask where there are fewer than six. Ours: by their costs alone, answers that no mask needs learn
    nothing, and which of them draws what is coarse is chance.

    Args:
        targets: T of C clicks, by click.

    Returns:
        6 C targets by click, and (6 C,) int64 the answer, 0 to 5, that learns from each.
    """
    area = targets.masks.flatten(1).sum(dim=1)
    order = area.argsort(descending=True, stable=True)
    order = order[targets.click[order].argsort(stable=True)]
    _, count = targets.click.unique_consecutive(return_counts=True)
    token = torch.arange(GUESSES, device=order.device)
    row = (count.cumsum(0) - count)[:, None] + token * count[:, None] // GUESSES
    return Targets(*(one[order[row.flatten()]] for one in targets)), token.repeat(len(count))


def _read_together(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps (M, H, W) bilinearly at the same points (K, 2) as (M, K) float32, as ``read_at`` does."""
    grid = 2 * points[None, None] - 1
    return F.grid_sample(maps.float()[None], grid, mode="bilinear", align_corners=False)[0, :, 0]
