"""Optical density against the slide's own glass: what every decision about tissue and ink is made on."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_DEFAULT_GLASS = 245.0
_LEAST_GLASS = 190
_MOST_CHROMA = 15
_MOST_RANGE = 4
_MOST_PINK, _MOST_RED = 3, 6
_LEAST_SHARE = 0.01


def glass_colour(image: np.ndarray) -> np.ndarray:
    """The colour of empty glass.

    It is the upper end of the bright, nearly grey and smooth pixels that are not pink: pale stroma can be as
    bright as glass, but it absorbs green light most and is rarely as even. Pure white is left out, because readers
    fill unscanned parts with it. Without enough such pixels a usual value is taken, so that a slide that is all
    tissue does not become its own background.

    Args:
        image: (h, w, 3) uint8 RGB overview.

    Returns:
        (3,) float64 intensities.
    """
    green = image[..., 1]
    smooth = ndimage.maximum_filter(green, 3) - ndimage.minimum_filter(green, 3) <= _MOST_RANGE
    low, high = image.min(axis=-1), image.max(axis=-1)
    level = green.astype(np.int16)
    pink = (np.minimum(image[..., 0], image[..., 2]) > level + _MOST_PINK) | (image[..., 0] > level + _MOST_RED)
    grey = (low >= _LEAST_GLASS) & (low < 255) & (high - low <= _MOST_CHROMA)
    candidates = image[grey & smooth & ~pink]
    if len(candidates) < max(1, _LEAST_SHARE * low.size):
        return np.full(3, _DEFAULT_GLASS)
    return np.percentile(candidates, 90, axis=0)


def density_table(glass: np.ndarray) -> np.ndarray:
    """(3, 256) float32: optical density (base 10) of each intensity of each channel; glass is 0, never below."""
    intensities = np.arange(1, 257, dtype=np.float64)
    table = np.log10((np.asarray(glass)[:, None] + 1) / intensities[None])
    return np.maximum(table, 0).astype(np.float32)


def optical_density(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB → (..., 3) float32 optical density."""
    return np.stack([table[channel][image[..., channel]] for channel in range(3)], axis=-1)
