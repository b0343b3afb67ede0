"""The value types every stage shares.

One coordinate story: everything is in **level-0 pixels of the uncropped slide**, x right, y down, and
integers are pixel *corners*: pixel (i, j) covers [i, i+1] x [j, j+1]. An image of any resolution carries
the affine from its own pixel corners to level 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Resolution:
    """µm per level-0 pixel along x and y."""

    x: float
    y: float

    @property
    def mean(self) -> float:
        """The side, in µm, of a square with the area of one pixel."""
        return math.sqrt(self.x * self.y)


@dataclass(frozen=True, slots=True)
class Region:
    """An axis-aligned rectangle; level-0 px unless the caller says otherwise."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def from_bounds(cls, x0: float, y0: float, x1: float, y1: float) -> Region:
        return cls(x0, y0, x1 - x0, y1 - y0)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``(x0, y0, x1, y1)``."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    @property
    def center(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def is_empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def intersection(self, other: Region) -> Region:
        """The common rectangle; its size is zero when the two do not meet."""
        x0, y0 = max(self.x, other.x), max(self.y, other.y)
        x1 = min(self.x + self.width, other.x + other.width)
        y1 = min(self.y + self.height, other.y + other.height)
        return Region(x0, y0, max(0.0, x1 - x0), max(0.0, y1 - y0))

    def expanded(self, margin: float) -> Region:
        return Region(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin)


@dataclass(frozen=True, slots=True)
class Affine2D:
    """Scale, then translate: ``x' = sx * x + tx``, ``y' = sy * y + ty``.

    Slides are never rotated against their own pyramid, so two scales and an offset are the whole affine.
    """

    sx: float = 1.0
    sy: float = 1.0
    tx: float = 0.0
    ty: float = 0.0

    def apply(self, xy: np.ndarray) -> np.ndarray:
        """Map points ``(..., 2)`` given as (x, y); returns float64 of the same shape."""
        return np.asarray(xy, dtype=np.float64) * (self.sx, self.sy) + (self.tx, self.ty)

    def inverse(self) -> Affine2D:
        return Affine2D(1 / self.sx, 1 / self.sy, -self.tx / self.sx, -self.ty / self.sy)

    def after(self, first: Affine2D) -> Affine2D:
        """The affine that applies ``first`` and then this one."""
        return Affine2D(
            self.sx * first.sx, self.sy * first.sy, self.sx * first.tx + self.tx, self.sy * first.ty + self.ty
        )

    def shifted(self, x: float, y: float) -> Affine2D:
        """The affine of the same image cropped so that its pixel (x, y) becomes its origin."""
        return self.after(Affine2D(tx=x, ty=y))

    def region(self, width: float, height: float) -> Region:
        """Where an image of ``width`` x ``height`` px lies."""
        return Region(self.tx, self.ty, self.sx * width, self.sy * height)

    def shapely(self) -> list[float]:
        """Coefficients ``[a, b, d, e, xoff, yoff]`` of ``shapely.affinity.affine_transform``."""
        return [self.sx, 0.0, 0.0, self.sy, self.tx, self.ty]


@dataclass(frozen=True, slots=True)
class PixelGrid:
    """A raster laid over a slide: its size, where it lies, and its resolution.

    Attributes:
        width, height: size in px of this grid.
        to_level0: maps this grid's pixel corners to level-0 px.
        mpp: µm per pixel of this grid.
    """

    width: int
    height: int
    to_level0: Affine2D
    mpp: float

    @classmethod
    def over(cls, region: Region, resolution: Resolution, mpp: float) -> PixelGrid:
        """The grid of ``mpp`` that starts at the corner of ``region`` (level-0 px) and covers it whole."""
        sx, sy = mpp / resolution.x, mpp / resolution.y
        width = max(1, math.ceil(region.width / sx - 1e-6))
        height = max(1, math.ceil(region.height / sy - 1e-6))
        return cls(width, height, Affine2D(sx, sy, region.x, region.y), mpp)

    @property
    def region(self) -> Region:
        """The rectangle it covers, level-0 px."""
        return self.to_level0.region(self.width, self.height)

    def crop(self, x: int, y: int, width: int, height: int) -> PixelGrid:
        """The part of this grid whose top-left pixel is (x, y)."""
        return PixelGrid(width, height, self.to_level0.shifted(x, y), self.mpp)
