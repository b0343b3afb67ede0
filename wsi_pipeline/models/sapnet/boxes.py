"""Measures of boxes ``x0, y0, x1, y1`` px (..., 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def area_of(boxes: Tensor) -> Tensor:
    """(...) px²."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """(...) IoU of boxes, pair by pair; shapes are broadcast."""
    corners = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (corners[1] - corners[0]).clamp(min=0).prod(dim=-1)
    return shared / (area_of(first) + area_of(second) - shared).clamp(min=1e-6)


def around(centre: Tensor, size: Tensor) -> Tensor:
    """(..., 4) boxes of ``size`` (w, h) around ``centre`` (x, y), both (..., 2)."""
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)
