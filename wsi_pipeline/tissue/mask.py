"""Where the tissue is: a mask at overview resolution that answers questions about regions of the slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from wsi_pipeline.geometry import PixelGrid, Region
from wsi_pipeline.tiling.plan import TilePlan


@dataclass(frozen=True)
class TissueMask:
    """Tissue and artefacts of one slide.

    Attributes:
        grid: where the masks lie on the slide, and their resolution.
        tissue: (h, w) bool over ``grid``; artefacts are already left out.
        artefacts: name of the artefact (``pen``, ``out of focus``) → (h, w) bool over ``grid``.
        warnings: one line each, for the report.
    """

    grid: PixelGrid
    tissue: np.ndarray
    artefacts: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.tissue.any()

    @property
    def area_um2(self) -> float:
        """Tissue area, µm²."""
        return float(self.tissue.sum()) * self.grid.mpp**2

    def share_of(self, region: Region) -> float:
        """Share of ``region`` (level-0 px) that is tissue, 0 … 1; what lies outside the mask is not tissue."""
        return float(self.shares(np.array([region.bounds]))[0])

    def shares(self, rectangles: np.ndarray) -> np.ndarray:
        """Share of tissue of many rectangles.

        Args:
            rectangles: (N, 4) ``x0, y0, x1, y1``, level-0 px.

        Returns:
            (N,) float64 in [0, 1]; 0 for a rectangle without area.
        """
        rectangles = np.asarray(rectangles, np.float64).reshape(-1, 4)
        corners = self.grid.to_level0.inverse().apply(rectangles.reshape(-1, 2, 2))
        (x0, y0), (x1, y1) = corners[:, 0].T, corners[:, 1].T
        covered = self._sum_to(x1, y1) - self._sum_to(x0, y1) - self._sum_to(x1, y0) + self._sum_to(x0, y0)
        return _ratio(covered, (x1 - x0) * (y1 - y0))

    def keep_tiles(self, grid: PixelGrid, size: int, overlap: int, min_tissue: float) -> np.ndarray:
        """Which tiles of a ``TilePlan`` lie on tissue.

        A tile is judged by the part of it that lies on ``grid``, so that a tile hanging over the slide's border
        is not worth less; a tile without any tissue is never kept.

        Args:
            grid: the working grid.
            size, overlap: of the tiles, px of ``grid``.
            min_tissue: least share of tissue, 0 … 1.

        Returns:
            (rows, cols) bool, the ``keep`` of a ``TilePlan``.
        """
        rows, cols = TilePlan.shape(grid, size, overlap)
        plan = TilePlan(grid, size, overlap, np.ones((rows, cols), bool), block=1)
        left = np.array([plan.tile(0, col).x for col in range(cols)])
        top = np.array([plan.tile(row, 0).y for row in range(rows)])
        to_mask = self.grid.to_level0.inverse().after(grid.to_level0)
        x0, x1 = (np.clip(edge, 0, grid.width) * to_mask.sx + to_mask.tx for edge in (left, left + size))
        y0, y1 = (np.clip(edge, 0, grid.height) * to_mask.sy + to_mask.ty for edge in (top, top + size))
        keep = np.zeros((rows, cols), bool)
        for row in range(rows):  # row by row: a plan of a gigapixel slide has a million tiles
            lower, upper = np.full(cols, y1[row]), np.full(cols, y0[row])
            covered = self._sum_to(x1, lower) - self._sum_to(x0, lower) - self._sum_to(x1, upper)
            covered += self._sum_to(x0, upper)
            share = _ratio(covered, (x1 - x0) * (y1[row] - y0[row]))
            keep[row] = (share > 0) & (share >= min_tissue)
        return keep

    @cached_property
    def _integral(self) -> np.ndarray:
        """(h + 1, w + 1) uint32: tissue pixels above and left of each pixel corner."""
        height, width = self.tissue.shape
        integral = np.zeros((height + 1, width + 1), np.uint32)
        np.cumsum(self.tissue, axis=0, dtype=np.uint32, out=integral[1:, 1:])
        np.cumsum(integral[1:, 1:], axis=1, out=integral[1:, 1:])
        return integral

    def _sum_to(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tissue area, mask px, between the mask's origin and points (x, y) of it.

        Inside a pixel the area grows bilinearly, so interpolating the integral image is exact.
        """
        height, width = self.tissue.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        column = np.minimum(x.astype(np.int64), width - 1)
        row = np.minimum(y.astype(np.int64), height - 1)
        fx, fy = x - column, y - row
        table = self._integral
        upper = table[row, column] * (1 - fx) + table[row, column + 1] * fx
        lower = table[row + 1, column] * (1 - fx) + table[row + 1, column + 1] * fx
        return upper * (1 - fy) + lower * fy


def _ratio(covered: np.ndarray, area: np.ndarray) -> np.ndarray:
    share = np.divide(covered, area, out=np.zeros_like(covered), where=area > 0)
    # Differences of large sums leave 1e-10 px of nothing, which must not count as tissue.
    return np.clip(np.where(covered > 1e-6, share, 0.0), 0.0, 1.0)
