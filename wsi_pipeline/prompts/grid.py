"""A regular grid of points on tissue: for models that find objects from points alone."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.models.roles import Detections, PairImages
from wsi_pipeline.tissue.colour import density_table
from wsi_pipeline.workflow import GridPrompts

_GLASS = np.full(3, 245.0)
_LEAST_COLOUR, _LEAST_DENSITY = 0.022, 0.1
"""Optical densities that glass of any scanner stays below: difference of the channels, and their mean."""
_POINTS = 256
"""Points whose windows are looked at at once."""


class PointGrid:
    """A ``Prompter`` that asks everywhere on tissue, at the points of ``grid_points``.

    Its detections are points without an extent: ``boxes`` is all NaN and ``scores`` is all 1.
    """

    input_size: int | None = None
    uses_low_patch = False

    def __init__(self, settings: GridPrompts) -> None:
        self.settings = settings

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """The grid points of each high patch that lie on tissue, row by row; see ``Prompter``."""
        return [self._detect_one(image, mpp) for image in pairs.high]

    def _detect_one(self, image: np.ndarray, mpp: float) -> Detections:
        height, width = image.shape[:2]
        points, spacing = grid_points(self.settings, (width, height), mpp)
        points = points[has_stain(image, points, round(spacing / 2))].astype(np.float32)
        boxes = np.full((len(points), 4), np.nan, np.float32)
        return Detections(boxes, np.ones(len(points), np.float32), points)


def grid_points(
    settings: GridPrompts, size: tuple[float, float], mpp: float, *, layer: int = 0
) -> tuple[np.ndarray, float]:
    """The points of a patch, whether on tissue or not, row by row, and how far apart they are.

    Args:
        settings: a distance in µm, or a number of points per side.
        size: (width, height) px of the patch.
        mpp: µm per px of the tile. A crop of a tile has the tile's grid on its own, finer px.
        layer: of crops; ``crop_n_points_downscale_factor`` thins its points out.

    Returns:
        (N, 2) float64 x and y, px, and a number of px.
    """
    thinner = settings.crop_n_points_downscale_factor**layer
    if settings.points_per_side is None:
        spacing = max(1.0, thinner * settings.spacing / mpp)
        along = [_positions(length, spacing) for length in size]
    else:
        count = max(1, settings.points_per_side // thinner)
        spacing = max(size) / count
        along = [(np.arange(count) + 0.5) * length / count for length in size]
    x, y = np.meshgrid(*along)
    return np.stack([x.ravel(), y.ravel()], axis=-1), spacing


def has_stain(image: np.ndarray, points: np.ndarray, window: int) -> np.ndarray:
    """Whether a window around each point holds stain on average; beyond the patch its outermost pixels go on.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (N, 2) x and y, px of the image.
        window: side of the windows, px.

    Returns:
        (N,) bool.
    """
    side = max(1, window)
    padded = np.pad(image, ((side // 2, side), (side // 2, side), (0, 0)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
    columns, rows = points.astype(np.int64).T
    table = density_table(_GLASS)
    mean = np.empty((len(points), 3))
    for first in range(0, len(points), _POINTS):
        part = slice(first, first + _POINTS)
        for channel in range(3):
            density = table[channel][around[rows[part], columns[part], channel]]
            mean[part, channel] = density.mean(axis=(1, 2))
    return (np.ptp(mean, axis=1) > _LEAST_COLOUR) | (mean.mean(axis=1) > _LEAST_DENSITY)


def _positions(length: float, spacing: float) -> np.ndarray:
    """Points ``spacing`` apart, the same distance from both ends of a side of ``length`` px."""
    count = max(1, int(length / spacing))
    return (length - (count - 1) * spacing) / 2 + spacing * np.arange(count)
