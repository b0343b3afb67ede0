"""How well proposed masks fit the examples: by optimal transport of features and by the matches they hold (§3.3)."""

from __future__ import annotations

import numpy as np

TINY = 1e-6
"""Added to shares, as published, so that none is zero."""


def grid_of(masks: np.ndarray, grid: int) -> np.ndarray:
    """(M, g, g) bool: patches that masks (M, H, W) bool touch; an empty mask touches all, as published."""
    count, side = len(masks), masks.shape[-1]
    cell = side / grid
    if cell.is_integer():
        touched = np.asarray(masks.reshape(count, grid, int(cell), grid, int(cell)).any(axis=(2, 4)))
    else:
        touched = np.zeros((count, grid, grid), bool)
        mask, y, x = np.nonzero(masks)
        touched[mask, (y / cell).astype(np.int64), (x / cell).astype(np.int64)] = True
    touched[~touched.any(axis=(1, 2))] = True
    return touched


def held(masks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(M,) int64: how many of the points (P, 2) px lie in each mask (M, H, W)."""
    x, y = points.astype(np.int64).T
    return np.count_nonzero(masks[:, y, x], axis=1)


def purity(inside: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(M,): points in each mask for one of its patches; both (M,) counts."""
    return inside / np.maximum(patches, 1) + TINY


def coverage(inside: np.ndarray, points: int) -> np.ndarray:
    """(M,): share of all points that each mask holds."""
    return inside / max(points, 1) + TINY


def transport_score(similarity: np.ndarray, patches: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(M,) float64: 1 minus the least cost of moving the examples' features onto those of each mask.

    Args:
        similarity: (P, N) of the examples' patches and the target's.
        patches: (M, N) bool, those of each mask; at least one.
        weights: (P,) of the examples' patches, summing to 1; None for equal ones.
    """
    import ot

    cost = (1 - similarity.astype(np.float64)) / 2
    source = np.full(len(cost), 1 / len(cost)) if weights is None else weights
    scores = np.empty(len(patches))
    for number, mine in enumerate(patches):
        count = np.count_nonzero(mine)
        moved = ot.emd2(source, np.full(count, 1 / count), np.ascontiguousarray(cost[:, mine]))
        scores[number] = 1 - moved
    return scores
