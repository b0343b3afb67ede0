"""How far apart two outlines are."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

PERCENTILE = 95
"""The Hausdorff distance is a maximum; this share of it is not at the mercy of one px."""


def hd95(truth: np.ndarray, prediction: np.ndarray) -> float:
    """95th percentile Hausdorff distance of masks (H, W) bool, px.

    The distances from the edge px of each mask to the nearest edge px of the other; of the two 95th percentiles the
    larger one. Edge px have a neighbour above, below, left or right that is not in the mask; outside the image nothing
    is.

    Returns:
        0 where both are empty; where one is, the diagonal of the image: the worst there can be, so that a missed image
        is no missing value (Maier-Hein et al. 2024, "Metrics reloaded").
    """
    if not truth.any() and not prediction.any():
        return 0.0
    if not truth.any() or not prediction.any():
        return math.hypot(*truth.shape)
    box = _box(truth | prediction)
    first, second = _edge(truth[box]), _edge(prediction[box])
    return max(_directed(first, second), _directed(second, first))


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _edge(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def _directed(source: np.ndarray, target: np.ndarray) -> float:
    return float(np.percentile(ndimage.distance_transform_edt(~target)[source], PERCENTILE))
