"""Where a mask's boundary is: as a training label, and for comparing masks along their boundaries.

A boundary is what an erosion takes away. Published code erodes n times with 3 x 3 px, one image at a time on the CPU; a
mask eroded so keeps the px whose (2n + 1) x (2n + 1) px neighbourhood is filled. Counting empty px in that square from
a summed-area table gives the same for a whole batch on any device, at a cost that does not depend on n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

EVALUATION_WIDTH = 0.02
"""Width of the boundary in boundary IoU as a share of the image diagonal (Cheng et al. 2021; HQ-SAM and PA-SAM)."""


def eroded(mask: Tensor, radius: int, *, beyond: bool) -> Tensor:
    """Masks (..., H, W) bool shrunk by ``radius`` px with a square; ``beyond`` tells whether px outside the image count
    as filled."""
    pad = (radius + 1, radius, radius + 1, radius)
    empty = F.pad((~mask).int(), pad, value=int(not beyond))
    table = empty.cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32)
    side = 2 * radius + 1
    rows = table[..., side:, :] - table[..., :-side, :]
    return rows[..., side:] == rows[..., :-side]


def boundary(mask: Tensor, width: float, *, beyond: bool = False) -> Tensor:
    """The px of masks (..., H, W) bool that are near what is outside of them.

    Args:
        mask: the masks.
        width: of the boundary as a share of the image diagonal; at least one px.
        beyond: whether px outside the image count as filled; if not, a mask cut off by the image's edge has a
            boundary there.

    Returns:
        (..., H, W) bool.
    """
    radius = max(1, round(width * math.hypot(*mask.shape[-2:])))
    return mask & ~eroded(mask, radius, beyond=beyond)


def boundary_label(mask: Tensor, width: float) -> Tensor:
    """The px on both sides of the contours of masks (..., H, W) bool: PA-SAM's label for its uncertainty map.

    Where an object is cut off by the image's edge, only its own side counts; where background is, nothing does.
    """
    return boundary(mask, width) | boundary(~mask, width, beyond=True)


def mask_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """|A and B| / |A or B| of masks (..., H, W) bool as (...) float32; 1 where both are empty (published code: nan)."""
    union = (predicted | target).sum((-2, -1))
    common = (predicted & target).sum((-2, -1))
    return torch.where(union > 0, common / union.clamp(min=1), 1.0)


def boundary_iou(predicted: Tensor, target: Tensor, width: float = EVALUATION_WIDTH) -> Tensor:
    """``mask_iou`` of the masks' boundaries (Cheng et al. 2021), the image's edge counting as outside."""
    return mask_iou(boundary(predicted, width), boundary(target, width))
