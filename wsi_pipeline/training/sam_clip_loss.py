"""The two losses of SAM-CLIP: what the teacher says of images, and what SAM itself used to answer."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from wsi_pipeline.training.losses import dice_loss

_FOCAL, _ALPHA, _GAMMA = 20.0, 0.25, 2.0
"""Weight beside Dice, balance and focus, as in SAM's paper."""


def meaning_loss(vectors: Tensor, taught: Tensor) -> Tensor:
    """1 - cosine of vectors (..., D) and the teacher's, a mean."""
    return 1 - F.cosine_similarity(vectors.float(), taught.float(), dim=-1).mean()


def rehearsal_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """How far masks are from those that SAM drew before, a mean over masks.

    Args:
        logits: (B, P, h, w).
        answers: (B, P, h, w) SAM's own logits.
    """
    drawn, masks = logits.float().flatten(2), (answers > 0).float().flatten(2)
    focal = sigmoid_focal_loss(drawn, masks, alpha=_ALPHA, gamma=_GAMMA, reduction="mean")
    return _FOCAL * focal + dice_loss(drawn, masks)
