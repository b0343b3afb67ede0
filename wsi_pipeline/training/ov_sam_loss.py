"""What Open-Vocabulary SAM's two stages are trained with (Yuan et al. 2024, §3.2 and §3.3)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
NO_CLASS_WEIGHT = 0.1
IGNORED = -1
"""Label of regions whose class is not known."""


def adapter_loss(embedding: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the adapter's embedding and SAM's, (B, 256, 64, 64) each."""
    return F.mse_loss(embedding, teacher)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted cross-entropy of regions (N, K + 1), whose last column is "no class".

    A region of class ``IGNORED`` adds nothing, but counts as one of the first class where the sum is divided.

    Args:
        logits: of the regions.
        labels: (N,) int64.
    """
    weights = logits.new_ones(logits.shape[1])
    weights[-1] = NO_CLASS_WEIGHT
    counted = weights[labels.clamp(min=0)].sum()
    total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="sum")
    return CLASS_WEIGHT * total / counted


def mask_loss(logits: Tensor, target: Tensor, count: float | None = None) -> Tensor:
    """Binary cross-entropy at points of masks.

    Args:
        logits: (N, P) at P points of N masks.
        target: (N, P) 0 or 1.
        count: masks of a process on average; None takes N. At least 1.
    """
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
    return MASK_WEIGHT * each.sum() / _at_least_one(count, logits)


def dice_loss(logits: Tensor, target: Tensor, count: float | None = None) -> Tensor:
    """1 - Dice at points of masks; arguments as of ``mask_loss``."""
    p = logits.sigmoid()
    dice = (2 * (p * target).sum(dim=1) + 1) / (p.sum(dim=1) + target.sum(dim=1) + 1)
    return DICE_WEIGHT * (1 - dice).sum() / _at_least_one(count, logits)


def _at_least_one(count: float | None, logits: Tensor) -> float:
    return max(float(len(logits) if count is None else count), 1.0)
