"""Matrix-NMS (Wang et al. 2020, "SOLOv2"): every better mask of the class lowers a mask's score, all at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["gaussian", "linear"]
_PX_AT_ONCE = 1 << 21
"""Mask px that are held as floats."""


def matrix_nms(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    kernel: Kernel = "gaussian",
    sigma: float = 2.0,
    min_score: float = 0.0,
    candidates: int | None = None,
    most: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Lower the scores of masks that better ones of their class cover.

    A mask that is covered itself suppresses less, by its own worst overlap.

    Args:
        masks: (n, h, w) bool.
        labels: (n,) int64.
        scores: (n,) in [0, 1].
        kernel: how overlap counts, exp(-sigma IoU²) or 1 - IoU.
        sigma: of gaussian.
        min_score: what has less afterwards is dropped.
        candidates: the best that are looked at; None for all.
        most: that are kept; None for all.

    Returns:
        (k,) new scores, falling, and (k,) int64 which of the n they are.
    """
    order = scores.argsort(descending=True, stable=True)[:candidates]
    if not len(order):
        return scores, order
    same = labels[order][:, None] == labels[order]
    overlap = (mask_iou(masks, order) * same).triu(diagonal=1)
    own_worst = overlap.amax(dim=0)
    # without the guard, exact duplicates would divide zero by zero
    ratio = _remains(overlap, kernel, sigma) / _remains(own_worst, kernel, sigma).clamp(min=1e-6)[:, None]
    lowered = scores[order] * ratio.amin(dim=0)
    kept = (lowered >= min_score).nonzero()[:, 0]
    kept = kept[lowered[kept].argsort(descending=True, stable=True)][:most]
    return lowered[kept], order[kept]


def mask_iou(masks: Tensor, order: Tensor) -> Tensor:
    """(k, k) float32 IoU of the masks (n, h, w) bool that ``order`` (k,) names, by products of some px at a time."""
    shared = torch.zeros(len(order), len(order), device=masks.device)
    for part in masks.flatten(1).split(max(1, _PX_AT_ONCE // len(order)), dim=1):
        px = part[order].float()
        shared.addmm_(px, px.T)
    area = shared.diagonal()
    return shared / (area[:, None] + area - shared).clamp(min=1)


def _remains(iou: Tensor, kernel: Kernel, sigma: float) -> Tensor:
    return (-sigma * iou.square()).exp() if kernel == "gaussian" else 1 - iou
