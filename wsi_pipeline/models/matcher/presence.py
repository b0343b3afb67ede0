"""How much more a patch is like the examples than like what surrounds them, and whether they occur at all (§3.6).

The published method never says that there is nothing: a one-to-one match exists on every image. Here the answer comes
from the *likeness* of a patch: its best similarity to the patches inside the examples minus its similarity to the
patches known to be outside. An image's *presence* is the mean likeness where it is highest over half of an example's
area, above the mean likeness of the examples' own surroundings. Both are in units of the cosine.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

WINDOW = 0.75
"""Radius over which likeness is averaged, in radii of an example: half its area."""
_SMOOTH = 0.7
"""Deviation, in patches, of the filter that likeness goes through before it is cut."""
_THRESHOLDS = 100
"""Likeness at which examples may be parted from their surroundings: so many values from the latter's mean on."""
_LOST = 0.25
"""Share of an example's patches that may be on the other side."""
_AS_GOOD = 0.02
"""Thresholds whose overlap (IoU) is less than this below the best are as good; the highest of them is taken."""


def likeness(similarity: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(N,) of target patches.

    Patches outside are usually many more, and the best of many is good by chance alone. So the best so many of them
    are averaged as is the square root of how many times more there are.

    Args:
        similarity: (R, N) to the patches of the examples.
        inside, outside: (R,) bool; where none is outside, likeness is the similarity itself.
    """
    best = similarity[inside].max(axis=0)
    others = np.flatnonzero(outside)
    if not len(others):
        return best
    count = max(1, round(math.sqrt(len(others) / np.count_nonzero(inside))))
    nearest = np.partition(similarity[others], len(others) - count, axis=0)[len(others) - count :]
    return best - nearest.mean(axis=0)


def highest(field: np.ndarray, radius: float) -> float:
    """Highest mean of a map (g, g) over a disc; ``radius`` of an example, patches."""
    reach = max(WINDOW * radius, 0.5)
    ticks = np.arange(-int(reach), int(reach) + 1)
    disc = np.hypot(ticks[:, None], ticks) <= reach
    return float(ndimage.convolve(field.astype(np.float64), disc / disc.sum(), mode="nearest").max())


def smoothed(field: np.ndarray) -> np.ndarray:
    """A map (g, g) whose single patches do not stand out."""
    return ndimage.gaussian_filter(field, _SMOOTH)


class Calibration(NamedTuple):
    """What the examples of K classes say about themselves, each patch compared with all but its neighbours.

    Attributes:
        threshold: (K,) likeness that parts them best from their surroundings.
        surroundings: (K,) mean likeness of the latter.
    """

    threshold: np.ndarray
    surroundings: np.ndarray


def calibrate(features: np.ndarray, labels: np.ndarray, compared: np.ndarray, classes: int) -> Calibration:
    """Likeness of the examples' crops to the examples themselves.

    Args:
        features: (X, N, C) of X crops, unit length.
        labels: (X, N): n inside an example of the n-th class, 0 outside, -1 unknown.
        compared: (R,) numbers of the patches, of all X * N, that targets are compared with.
        classes: K.
    """
    near = _neighbours(features.shape[1])
    flat, kinds = features.reshape(-1, features.shape[-1])[compared], labels.ravel()[compared]
    crop_of, place = np.divmod(compared, features.shape[1])
    found = np.zeros((classes, *labels.shape))
    for number, crop in enumerate(features):
        similarity = flat @ crop.T
        mine = np.flatnonzero(crop_of == number)
        similarity[mine] = np.where(near[place[mine]], -1, similarity[mine])
        for index in range(classes):
            inside = kinds == index + 1
            like = likeness(similarity, inside, (kinds >= 0) & ~inside)
            found[index, number] = smoothed(like.reshape(2 * [round(len(like) ** 0.5)])).ravel()
    return Calibration(*np.array([_parting(found[index], labels, index + 1) for index in range(classes)]).T)


def _parting(found: np.ndarray, labels: np.ndarray, label: int) -> tuple[float, float]:
    """Threshold and mean of the surroundings, of the likeness (X, N) of a class."""
    inside, outside = labels == label, (labels != label) & (labels >= 0)
    if not outside.any():
        return float(np.quantile(found[inside], 0.1)), 0.0
    like, unlike = np.sort(found[inside]), np.sort(found[outside])
    around = float(unlike.mean())
    thresholds = np.linspace(around, float(np.quantile(like, _LOST)), _THRESHOLDS)
    common, wrong = (len(one) - np.searchsorted(one, thresholds, side="right") for one in (like, unlike))
    overlap = common / (len(like) + wrong)
    return float(thresholds[overlap >= overlap.max() - _AS_GOOD].max()), around


def _neighbours(patches: int) -> np.ndarray:
    """(N, N) bool: which patches of a square grid touch each other, or are the same."""
    row, column = np.divmod(np.arange(patches), round(patches**0.5))
    return (np.abs(row[:, None] - row) <= 1) & (np.abs(column[:, None] - column) <= 1)
