"""Which part of an answer belongs to its prompt, for many windows at once.

A decoder answers with everything it takes for the object, often with a neighbour or a few specks besides.
"""

from __future__ import annotations

import numpy as np

BACKGROUND = -8.0
"""Logit of "surely not": the lowest one that the quantised tile logits can hold."""

STABILITY_OFFSET = 1.0
"""Logits above and below the threshold at which stability compares the mask (Δ of the SAM mask generator)."""

MOSTLY = 0.5
"""A further part counts as the prompt's own when at least this share of it lies where the prompt is."""

PART_SHARE = 0.2
"""A further part counts when it holds at least this share of the best part's px where the prompt is; specks do not."""

_IN_PLANE = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], bool)


def clear_outside(logits: np.ndarray, origin: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Windows (N, h, w) with ``BACKGROUND`` outside ``limits`` (N, 4), ``x0, y0, x1, y1`` in patch px."""
    x, y = window_px(logits, origin)
    x0, y0, x1, y1 = limits[:, :, None].transpose(1, 0, 2)
    inside = ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None, :]
    return logits if inside.all() else np.where(inside, logits, np.float32(BACKGROUND))


def window_px(logits: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patch columns (N, w) and rows (N, h), int64, of windows (N, h, w) whose top-left px are ``origin`` (N, 2)."""
    _, height, width = logits.shape
    return origin[:, :1] + np.arange(width), origin[:, 1:] + np.arange(height)


def box_seeds(logits: np.ndarray, origin: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Px of each window that its box (N, 4) meets; bool of the windows' shape (N, h, w)."""
    x, y = window_px(logits, origin)
    x0, y0, x1, y1 = boxes[:, :, None].transpose(1, 0, 2)
    return ((y + 1 > y0) & (y < y1))[:, :, None] & ((x + 1 > x0) & (x < x1))[:, None, :]


def point_seeds(logits: np.ndarray, origin: np.ndarray, points: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Px of each window within 1.5 px of its positive points, so that a click on an edge still meets its object.

    Args:
        logits: (N, h, w) windows.
        origin: (N, 2) their top-left px in the patch.
        points: (N, K, 2) (x, y), patch px.
        inside: (N, K) bool, which of them are positive.
    """
    x, y = window_px(logits, origin)
    seeds = np.zeros(logits.shape, bool)
    for k in range(points.shape[1]):
        near_x = (np.abs(x + 0.5 - points[:, k, :1]) <= 1.5) & inside[:, k, None]
        near_y = np.abs(y + 0.5 - points[:, k, 1:]) <= 1.5
        seeds |= near_y[:, :, None] & near_x[:, None, :]
    return seeds


def own_parts(logits: np.ndarray, seeds: np.ndarray, *, parts: str) -> np.ndarray:
    """The connected components (4-neighbours) of each answer that belong to its prompt.

    Args:
        logits: (N, h, w) mask logits; inside above 0.
        seeds: (N, h, w) bool, where the prompt is.
        parts: ``"best"`` keeps the component with most px where the prompt is; ``"large"`` also those that lie
            mostly there and are not small against the best; ``"every"`` all that meet the prompt.

    Returns:
        (N, h, w) bool masks, empty where nothing meets the prompt; holes stay holes.
    """
    from scipy import ndimage

    labels, count = ndimage.label(logits > 0, structure=_IN_PLANE)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    seeded = np.bincount(labels[seeds], minlength=count + 1)
    owner = np.zeros(count + 1, np.int64)
    found = np.flatnonzero(labels)
    owner[labels.ravel()[found]] = found // (logits.shape[1] * logits.shape[2])
    best = _best_of_each(owner, seeded, area, len(logits))
    if parts == "best":
        belongs = np.zeros(count + 1, bool)
        belongs[best] = True
    elif parts == "large":
        belongs = (seeded >= MOSTLY * area) & (seeded >= PART_SHARE * seeded[best][owner])
        belongs[best] = True
    else:
        belongs = np.ones(count + 1, bool)
    return (belongs & (seeded > 0) & (np.arange(count + 1) > 0))[labels]


def _best_of_each(owner: np.ndarray, seeded: np.ndarray, area: np.ndarray, n: int) -> np.ndarray:
    """Label (n,) of each window's component with most seeded px, then largest; 0 where a window has none."""
    order = np.lexsort((area, seeded, owner))
    order = order[order > 0]
    best = np.zeros(n, np.int64)
    best[owner[order]] = order
    return best


def own_logits(logits: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The logits with every other component set to ``BACKGROUND``, so that above 0 is exactly the mask."""
    return np.where((logits > 0) & ~masks, np.float32(BACKGROUND), logits)


def stability(own: np.ndarray, offset: float = STABILITY_OFFSET) -> np.ndarray:
    """IoU (N,) float32 of each mask at logits above ``offset`` and above ``-offset``; 0 for an empty mask."""
    strict = np.count_nonzero(own > offset, axis=(1, 2))
    loose = np.count_nonzero(own > -offset, axis=(1, 2))
    return (strict / np.maximum(loose, 1)).astype(np.float32)


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """Bounds (N, 4) int64 ``x0, y0, x1, y1`` (exclusive) of masks (N, h, w), window px; zeros where empty."""
    columns, rows = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
    x0, y0 = columns.argmax(axis=1), rows.argmax(axis=1)
    x1 = masks.shape[2] - columns[:, ::-1].argmax(axis=1)
    y1 = masks.shape[1] - rows[:, ::-1].argmax(axis=1)
    filled = np.asarray(columns.any(axis=1))
    return np.stack([x0, y0, x1, y1], axis=1) * filled[:, None]
