"""Clean-up of overview masks with sizes in px; memory stays at a few bytes per pixel of the overview."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

STRIP = 1 << 21
"""Pixels worked on at once where a step needs floats."""


def by_rows(step: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Apply a step that treats every pixel alone to (h, w, ...) ``image``, some rows at a time."""
    rows = max(1, STRIP // max(1, image.shape[1]))
    return np.concatenate([step(image[y : y + rows]) for y in range(0, len(image), rows)])


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """``mask`` grown by ``radius`` px with a square; cost does not depend on the radius."""
    if radius < 1:
        return mask
    return ndimage.maximum_filter(mask.view(np.uint8), 2 * radius + 1, mode="constant", cval=0).view(bool)


def eroded(mask: np.ndarray, radius: int) -> np.ndarray:
    """``mask`` shrunk by ``radius`` px with a square; the image's border does not count as background."""
    if radius < 1:
        return mask
    return ndimage.minimum_filter(mask.view(np.uint8), 2 * radius + 1, mode="constant", cval=1).view(bool)


def closed(mask: np.ndarray, gap: float) -> np.ndarray:
    """``mask`` with gaps of up to ``gap`` px closed."""
    radius = int(np.ceil(gap / 2 - 0.25))
    return eroded(dilated(mask, radius), radius) | mask if radius > 0 else mask


def opened(mask: np.ndarray, width: float) -> np.ndarray:
    """``mask`` without its parts thinner than ``width`` px."""
    radius = int(width / 2)
    return dilated(eroded(mask, radius), radius) & mask if radius > 0 else mask


def without_small_pieces(mask: np.ndarray, min_area: float) -> np.ndarray:
    """``mask`` without 8-connected pieces of less than ``min_area`` px."""
    labels, count = ndimage.label(mask, np.ones((3, 3), bool))
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= min_area
    keep[0] = False
    return keep[labels]


def without_small_holes(mask: np.ndarray, max_area: float) -> np.ndarray:
    """``mask`` with 4-connected holes of less than ``max_area`` px filled; a bay at the border is no hole."""
    labels, count = ndimage.label(~mask)
    fill = np.bincount(labels.ravel(), minlength=count + 1) < max_area
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    fill[border] = False
    fill[0] = False
    return mask | fill[labels]


def pieces_holding(loose: np.ndarray, core: np.ndarray) -> np.ndarray:
    """The 8-connected pieces of ``loose`` that hold a pixel of ``core``."""
    labels, count = ndimage.label(loose | core, np.ones((3, 3), bool))
    keep = np.zeros(count + 1, bool)
    keep[labels[core]] = True
    keep[0] = False
    return keep[labels]
