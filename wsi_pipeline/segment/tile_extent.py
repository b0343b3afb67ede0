"""Where a tile lies and what of it counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.tiling.plan import PatchPair, Tile, TilePlan


@dataclass(frozen=True, slots=True)
class TileExtent:
    """What masks of a tile need to know about it.

    Attributes:
        to_level0: maps its px to level-0 px.
        mpp: µm per tile px.
        limits: (4,) int64 ``x0, y0, x1, y1`` of the part that lies on the working grid, tile px; masks end there.
        asked: (4,) ``x0, y0, x1, y1`` of the part whose objects are asked about, tile px.
    """

    to_level0: Affine2D
    mpp: float
    limits: np.ndarray
    asked: np.ndarray

    @classmethod
    def of_tile(cls, tile: Tile, plan: TilePlan, *, slack: float) -> TileExtent:
        """A tile of a plan, asked about in its core and ``slack`` px around it."""
        grid, corner = plan.grid, np.array([tile.x, tile.y, tile.x, tile.y])
        limits = np.clip(np.array([0, 0, grid.width, grid.height]) - corner, 0, tile.size)
        asked = np.array(tile.core) - corner + slack * np.array([-1, -1, 1, 1])
        return cls(grid.to_level0.shifted(tile.x, tile.y), grid.mpp, limits, asked)

    def is_asked(self, centres: np.ndarray) -> np.ndarray:
        """Which objects with these centres (N, 2), tile px, lie in the part that is asked about; (N,) bool."""
        return np.asarray(((centres >= self.asked[:2]) & (centres < self.asked[2:])).all(axis=1))

    def pair(self, size: int, context_factor: float) -> PatchPair:
        """The tile, of ``size`` px, as the high patch of a pair."""
        return PatchPair.of_patch(self.to_level0, size, context_factor)

    @classmethod
    def whole(cls, size: int, mpp: float) -> TileExtent:
        """All of an image of ``size`` px that is no part of a slide."""
        bounds = np.array([0, 0, size, size])
        return cls(Affine2D(), mpp, bounds, bounds)
