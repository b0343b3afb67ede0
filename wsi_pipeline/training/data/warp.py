"""One geometry for both patches of a pair: where on the source each of their px lies.

Everything is in offsets from the pair's centre, measured in px of the undistorted high patch, so that the low patch is
the same map looked at in steps of c px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

CONTROL_POINTS = 5
"""Points along a side of the low patch that an elastic deformation moves; between them it is smooth."""


@dataclass(frozen=True, slots=True)
class WarpRange:
    """What a warp is drawn from.

    Attributes:
        zoom: smallest and largest magnification, drawn evenly on a logarithmic scale. Most data do not state their
            resolution, so a head has to bear any that is near.
        flip: mirror half of the samples, and turn all of them by a multiple of 90 degrees.
        turn: degrees, turn by up to so much more to either side.
        shear: by up to this share.
        elastic: how far control points move, standard deviation as a share of the high patch's side.
    """

    zoom: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    turn: float = 15.0
    shear: float = 0.05
    elastic: float = 0.005


STILL = WarpRange(zoom=(1.0, 1.0), flip=False, turn=0.0, shear=0.0, elastic=0.0)
"""No warp at all."""


@dataclass(frozen=True, slots=True)
class Warp:
    """A drawn geometry.

    Attributes:
        matrix: (2, 2) float64, from offsets (x, y) in the patch to offsets in the source.
        control: (2, K, K) float64 px, how far x and y move at the control points (rows, columns); None for not at all.
        extent: px, side of the square that the control points span.
    """

    matrix: np.ndarray
    control: np.ndarray | None
    extent: float

    @property
    def spacing(self) -> float:
        """Source px between neighbouring px of the high patch."""
        return math.sqrt(abs(np.linalg.det(self.matrix)))

    def offsets(self, size: int, step: float) -> np.ndarray:
        """(size, size, 2) float64 source offsets (x, y) of a patch's px centres, which are ``step`` px apart."""
        line = (np.arange(size) + 0.5 - size / 2) * step
        xy = np.stack(np.meshgrid(line, line), axis=-1)
        if self.control is not None:
            basis = _splines((line / self.extent + 0.5) * (CONTROL_POINTS - 1))
            xy = xy + np.moveaxis(basis @ self.control @ basis.T, 0, -1)
        return xy @ self.matrix.T

    def reach(self, size: int) -> np.ndarray:
        """(2,) float64: source px along x and y from the centre to the ends of a high patch of ``size`` px."""
        return np.abs(self.matrix).sum(axis=1) * size / 2


def draw_warp(allowed: WarpRange, size: int, context_factor: float, random: np.random.Generator) -> Warp:
    """Draw a geometry for patches of ``size`` px; the number of draws does not depend on ``allowed``."""
    share, turn, shear_x, shear_y = random.uniform(-1, 1, 4)
    quarters, mirrored = random.integers(4), random.integers(2)
    control = random.normal(size=(2, CONTROL_POINTS, CONTROL_POINTS)) * allowed.elastic * size
    low, high = np.log(allowed.zoom)
    zoom = math.exp((low + high) / 2 + share * (high - low) / 2)
    matrix = _turned(math.radians(turn * allowed.turn)) / zoom
    matrix = matrix @ [[1, shear_x * allowed.shear], [shear_y * allowed.shear, 1]]
    if allowed.flip:
        quarter = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), int(quarters))
        matrix = matrix @ quarter @ np.diag([1.0 - 2.0 * mirrored, 1.0])
    return Warp(matrix, control if allowed.elastic else None, size * context_factor)


def _turned(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _splines(places: np.ndarray) -> np.ndarray:
    """(N, K) float64: how much each control point counts at each place, 0 to K - 1 (cubic splines)."""
    points = [ndimage.map_coordinates(unit, places[None], order=3, mode="nearest") for unit in np.eye(CONTROL_POINTS)]
    return np.stack(points, axis=1)
