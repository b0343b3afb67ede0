"""Tile logits → probability, one rectangle at a time.

Where tiles overlap, their logits are averaged with weights that fall linearly towards each tile's border, so a
tile's opinion fades where it sees least context. Everything up to one exact division is integer arithmetic:
a pixel is the same whatever rectangle it was computed in and in whatever order the tiles came.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

from wsi_pipeline.segment.objects import LOGIT_STEPS, ObjectBatch

_FINE = 64
"""Entries of the table of probabilities per step of the tile logits; one entry is at most 0.06 of a grey value."""
_STRIP = 128
"""Rows whose means are worked out at once, as floats of eight bytes."""


def blend(region: tuple[int, int, int, int], batches: Iterable[ObjectBatch], overlap: int) -> np.ndarray:
    """The blended probability of a rectangle of the working grid.

    Args:
        region: ``x0, y0, x1, y1`` (exclusive), px of the working grid.
        batches: every batch with a tile that meets the rectangle; more do no harm.
        overlap: px shared by neighbouring tiles, over which the weight rises.

    Returns:
        (h, w) uint8, 255 times the sigmoid of the mean logit; 0 where no tile was looked at.
    """
    x0, y0, x1, y1 = region
    total = np.zeros((y1 - y0, x1 - x0), np.int64)
    weight = np.zeros_like(total)
    for batch in batches:
        size = batch.logits.shape[-1]
        for logits, (tile_x, tile_y) in zip(batch.logits, batch.logits_xy.tolist(), strict=True):
            left, right = max(x0, tile_x), min(x1, tile_x + size)
            top, bottom = max(y0, tile_y), min(y1, tile_y + size)
            if left >= right or top >= bottom:
                continue
            ramp = _ramp(size, overlap)
            w = ramp[top - tile_y : bottom - tile_y, None] * ramp[left - tile_x : right - tile_x]
            place = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
            total[place] += w * logits[top - tile_y : bottom - tile_y, left - tile_x : right - tile_x]
            weight[place] += w
    return _probability(total, weight)


@cache
def _ramp(size: int, overlap: int) -> np.ndarray:
    """(size,) int64 weights at the pixel centres, in half pixels from the nearer border, level past the overlap."""
    distance = 2 * np.arange(size, dtype=np.int64) + 1
    return np.minimum(np.minimum(distance, distance[::-1]), max(1, 2 * overlap))


@cache
def _table() -> np.ndarray:
    """uint8 rounded probability of the mean logits -128 … 128 steps, ``_FINE`` entries per step."""
    p = (np.arange(255) + 0.5) / 255
    first_of_value = np.log(p / (1 - p)) * LOGIT_STEPS
    steps = np.arange(-128 * _FINE, 128 * _FINE + 1) / _FINE
    return np.searchsorted(first_of_value, steps, side="right").astype(np.uint8)


def _probability(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    # A table instead of exp: faster, and no last bit that depends on vector instructions.
    result = np.zeros(total.shape, np.uint8)
    for top in range(0, len(total), _STRIP):
        rows = slice(top, top + _STRIP)
        seen = weight[rows] > 0
        if seen.any():
            mean = np.divide(total[rows], weight[rows], where=seen, out=np.zeros(seen.shape))
            index = np.rint(mean * _FINE).astype(np.intp) + 128 * _FINE
            result[rows] = np.where(seen, _table()[index], np.uint8(0))
    return result
