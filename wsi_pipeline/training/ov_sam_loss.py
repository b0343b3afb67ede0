"""What Open-Vocabulary SAM's region classifier is trained with (Yuan et al. 2024, §3.3).

Its masks are trained with cross entropy and Dice at points, each with a weight of 5: see ``losses.mask_loss``.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

CLASS_WEIGHT, NO_CLASS_WEIGHT = 2.0, 0.1
IGNORED = -1
"""Label of regions whose class is not known."""


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
