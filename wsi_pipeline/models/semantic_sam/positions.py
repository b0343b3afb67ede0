"""Places as numbers that networks can read, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wsi_pipeline.models.semantic_sam.answers import Shapes

_CLOSEST = 1e-5
"""To 0 or 1 that shares come before they are taken apart."""


def inverse_sigmoid(share: Tensor) -> Tensor:
    """Logits of shares 0..1."""
    return share.clamp(_CLOSEST, 1).log() - (1 - share).clamp(_CLOSEST, 1).log()


def sine(values: Tensor, width: int) -> Tensor:
    """Shares (..., k) of an extent as (..., k * width) sines and cosines of ``width / 2`` wavelengths each."""
    powers = torch.arange(0, width, 2, device=values.device, dtype=torch.float32) / width
    angles = (values * 2 * math.pi).unsqueeze(-1) / 10000**powers
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def box_sine(boxes: Tensor, width: int) -> Tensor:
    """Boxes (..., 4) cx, cy, w, h as (..., 4 * width), in the published order cy, cx, w, h."""
    return sine(boxes[..., [1, 0, 2, 3]], width)


def cell_sine(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """(height * width, channels) of the cells of a map, the row's half first; the last cell's share is 1."""
    rows, columns = (torch.arange(1, count + 1, device=device) / count for count in (height, width))
    return sine(torch.cartesian_prod(rows, columns), channels // 2)


def cell_centres(shapes: Shapes, device: torch.device) -> Tensor:
    """(S, 2) x, y of the centres of all levels' cells as shares of the image, line by line."""
    levels = []
    for height, width in shapes:
        rows, columns = ((torch.arange(count, device=device) + 0.5) / count for count in (height, width))
        levels.append(torch.cartesian_prod(rows, columns).flip(-1))
    return torch.cat(levels)
