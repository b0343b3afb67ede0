"""Touching objects told apart: every object has one hill on a map of distances to outlines.

Seeds are the hills' tops, a watershed gives each px of the mask to one of them (Beucher & Lantuéjoul 1979).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

_ROUND = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """How objects are told apart.

    Attributes:
        threshold: px of at least this probability are of an object.
        prominence: how much a hill has to rise above the pass to a higher one to be an object of its own; distances
            are 0..1.
        smooth: sigma of the blur of the distances, px; the map's ripples are no hills.
        min_area: smaller objects are dropped, px.
    """

    threshold: float = 0.5
    prominence: float = 0.1
    smooth: float = 2.0
    min_area: float = 0.0


def split_objects(probability: np.ndarray, distance: np.ndarray, settings: SplitSettings) -> np.ndarray:
    """The objects of one class.

    Args:
        probability: (H, W) float32 in 0..1.
        distance: (H, W) float32 in 0..1, 1 in the middle of each object and 0 outside.
        settings: how.

    Returns:
        (H, W) int32 labels 1 … N without gaps, in the order of the objects' first px. Without a least area they cover
        all px above the threshold and no other.
    """
    mask = probability >= settings.threshold
    hills = np.where(mask, ndimage.gaussian_filter(distance.astype(np.float64), settings.smooth), 0)
    seeds, _ = ndimage.label(h_maxima(hills, settings.prominence) & mask, _ROUND)
    labels = watershed(-hills, seeds, mask=mask)
    # a piece whose hill is too flat for a seed is one object
    pieces, _ = ndimage.label(mask & (labels == 0), _ROUND)
    labels = np.where(pieces > 0, pieces + labels.max(initial=0), labels)
    return _in_order(labels, settings.min_area)


def _in_order(labels: np.ndarray, min_area: float) -> np.ndarray:
    """Objects of at least that area, numbered by their first px."""
    values, first, area = np.unique(labels, return_index=True, return_counts=True)
    kept = (values > 0) & (area >= min_area)
    numbers = np.zeros(int(values.max(initial=0)) + 1, np.int32)
    numbers[values[kept][np.argsort(first[kept])]] = np.arange(1, int(kept.sum()) + 1)
    renumbered: np.ndarray = numbers[labels]
    return renumbered
