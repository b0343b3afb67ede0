"""A regular grid of points on tissue: for models that find objects from points alone."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from wsi_pipeline.models.roles import Detections, PairImages
from wsi_pipeline.tissue.colour import density_table, optical_density
from wsi_pipeline.workflow import GridPrompts

_GLASS = np.full(3, 245.0)
_LEAST_COLOUR, _LEAST_DENSITY = 0.022, 0.1
"""Optical densities that glass of any scanner stays below: difference of the channels, and their mean."""


class PointGrid:
    """A ``Prompter`` that asks everywhere on tissue, at points ``spacing`` µm apart.

    Its detections are points without an extent: ``boxes`` is all NaN and ``scores`` is all 1.
    """

    def __init__(self, settings: GridPrompts) -> None:
        self.settings = settings

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """The grid points of each high patch that lie on tissue, row by row; see ``Prompter``."""
        return [self._detect_one(image, mpp) for image in pairs.high]

    def _detect_one(self, image: np.ndarray, mpp: float) -> Detections:
        height, width = image.shape[:2]
        spacing = max(1.0, self.settings.spacing / mpp)
        x, y = np.meshgrid(_positions(width, spacing), _positions(height, spacing))
        points = np.stack([x.ravel(), y.ravel()], axis=-1)
        on_tissue = has_stain(image, round(spacing / 2))
        columns, rows = points.astype(np.int64).T
        points = points[on_tissue[rows, columns]].astype(np.float32)
        boxes = np.full((len(points), 4), np.nan, np.float32)
        return Detections(boxes, np.ones(len(points), np.float32), points)


def has_stain(image: np.ndarray, window: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB → (H, W) bool: pixels around which a window of ``window`` px holds stain on average."""
    density = optical_density(image, density_table(_GLASS))
    side = max(1, window)
    mean = ndimage.uniform_filter(density, (side, side, 0), mode="nearest")
    return (np.ptp(mean, axis=-1) > _LEAST_COLOUR) | (mean.mean(axis=-1) > _LEAST_DENSITY)


def _positions(length: int, spacing: float) -> np.ndarray:
    """Points ``spacing`` apart, the same distance from both ends of a side of ``length`` px."""
    count = max(1, int(length / spacing))
    return (length - (count - 1) * spacing) / 2 + spacing * np.arange(count)
