"""Views of patches: squares of some sizes anywhere on them, in the tokens that the head reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def sides_of(views: Sequence[float], grid: int) -> list[int]:
    """Sides, in tokens, of views that are shares of a patch of ``grid`` by ``grid`` tokens."""
    return [max(1, round(view * grid)) for view in views]


def corners_of(digest: str, sides: Sequence[int], grid: int) -> np.ndarray:
    """(V, 2) int64 (x, y) of views, px of the tokens' grid; the same for a patch of the same ``digest``."""
    random = np.random.default_rng(int(digest, 16))
    return np.array([random.integers(0, grid - side, 2, endpoint=True) for side in sides])


def crops_of(image: np.ndarray, corners: np.ndarray, sides: Sequence[int], grid: int) -> list[np.ndarray]:
    """The views (s, s, 3) of an image (S, S, 3)."""
    px = len(image) // grid
    return [
        image[y * px : (y + side) * px, x * px : (x + side) * px] for (x, y), side in zip(corners, sides, strict=True)
    ]


def cut(tokens: Tensor, corners: Tensor, side: int) -> Tensor:
    """(B, side, side, C) tokens of views of one size.

    Args:
        tokens: (B, h, w, C).
        corners: (B, 2) int64 (x, y).
        side: of the views, in tokens.
    """
    along = torch.arange(side, device=tokens.device)
    rows, columns = corners[:, 1, None] + along, corners[:, 0, None] + along
    image = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    return tokens[image, rows[:, :, None], columns[:, None, :]]
