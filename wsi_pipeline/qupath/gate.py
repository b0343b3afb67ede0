"""The export gate: no polygon passes that QuPath's importer would refuse.

Since 0.6 QuPath reduces every geometry to a 0.01 px grid and loses the whole file when one of them throws.
``shapely.set_precision`` is the same algorithm (OverlayNG with snap rounding), so what passes here imports there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

GRID = 0.01
"""Px; the precision QuPath imports with."""


@dataclass(frozen=True, slots=True)
class Gated:
    """What became of N geometries.

    Attributes:
        geometries: (N,) object; valid polygons on the grid, None where dropped.
        repaired: (N,) bool, was invalid and was mended.
        dropped: (N,) bool, nothing polygonal of ``min_area`` was left.
    """

    geometries: np.ndarray
    repaired: np.ndarray
    dropped: np.ndarray


def gate(geometries: np.ndarray, *, min_area: float = 0.0, grid: float = GRID) -> Gated:
    """Make polygons fit for QuPath.

    Args:
        geometries: (N,) shapely geometries in px of the image QuPath opens; None and other than polygons are dropped.
        min_area: px²; smaller results are dropped.
        grid: px; coordinates become multiples of it.
    """
    source = shapely.force_2d(np.array(geometries, dtype=object))
    source[~_finite(source)] = None
    done, left = _rounded(source, grid)
    repaired = np.zeros(len(source), bool)
    if left.any():
        bad = left & ~shapely.is_valid(source)
        source[bad] = mended(source[bad])
        done[left], threw = snap(source[left], grid)
        again = np.flatnonzero(left)[threw | ~shapely.is_valid(done[left])]
        if len(again):
            done[again], _ = snap(mended(source[again]), grid)
            bad[again] = True
        repaired = bad
    area = shapely.area(done)
    with np.errstate(invalid="ignore"):
        dropped = ~(shapely.is_valid(done) & (area > 0) & (area >= min_area))
    done[dropped] = None
    return Gated(done, repaired & ~dropped, dropped)


def needs_reduction(geometries: np.ndarray) -> np.ndarray:
    """(N,) bool: polygons that QuPath's reduction might change or refuse; the others it takes as they are."""
    return _rounded(geometries, GRID)[1]


def snap(geometries: np.ndarray, grid: float = GRID) -> tuple[np.ndarray, np.ndarray]:
    """Reduce to the grid as QuPath does on import.

    Args:
        geometries: (N,) geometries, None allowed.
        grid: px.

    Returns:
        The reduced geometries ((N,) object, None where it failed) and (N,) bool, true where QuPath would throw.
    """
    try:
        with np.errstate(all="ignore"):  # outlines without area divide by it
            return shapely.set_precision(geometries, grid), np.zeros(len(geometries), bool)
    except shapely.errors.GEOSException:
        if len(geometries) == 1:
            return np.array([None], dtype=object), np.ones(1, bool)
    # One bad geometry fails the array, so it is halved until the bad ones stand alone.
    half = len(geometries) // 2
    first, second = snap(geometries[:half], grid), snap(geometries[half:], grid)
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])


def mended(geometries: np.ndarray) -> np.ndarray:
    """Valid polygonal geometries made of invalid ones; None where nothing polygonal is left.

    Overlapping parts are united and both lobes of a crossing outline are kept.
    """
    valid = shapely.make_valid(geometries, method="structure", keep_collapsed=False)
    return polygonal(valid)


def polygonal(geometries: np.ndarray) -> np.ndarray:
    """The polygonal part of each geometry as Polygon or MultiPolygon, None where there is none."""
    result = np.array(geometries, dtype=object, copy=True)
    mixed = shapely.get_type_id(result) == shapely.GeometryType.GEOMETRYCOLLECTION
    for index in np.flatnonzero(mixed):
        areas = [part for part in shapely.get_parts(result[index]) if shapely.get_dimensions(part) == 2]
        result[index] = shapely.union_all(areas)
    result[(shapely.get_dimensions(result) != 2) | shapely.is_empty(result)] = None
    return result


def _finite(geometries: np.ndarray) -> np.ndarray:
    coordinates, index = shapely.get_coordinates(geometries, return_index=True)
    finite = np.ones(len(geometries), bool)
    finite[index[~np.isfinite(coordinates).all(axis=1)]] = False
    return finite


def _rounded(geometries: np.ndarray, grid: float) -> tuple[np.ndarray, np.ndarray]:
    """Round the outlines that need no more than that: (rounded or None, whether the full reduction is still due).

    In a valid outline whose edges run along the axes and whose vertices are on the grid no vertex comes closer than
    one step to an edge it is not on, so the reduction would change nothing. It costs ten times as much as this test,
    and outlines traced from masks are all of this kind.
    """
    result = np.full(len(geometries), None, dtype=object)
    areal = (shapely.get_dimensions(geometries) == 2) & ~shapely.is_empty(geometries)
    candidates = np.flatnonzero(areal & _axis_parallel(geometries))
    steps = round(1 / grid)
    rounded = shapely.transform(geometries[candidates], lambda xy: np.floor(xy * steps + 0.5) / steps)
    good = shapely.is_valid(rounded)
    result[candidates[good]] = rounded[good]
    due = areal.copy()
    due[candidates[good]] = False
    return result, due


def _axis_parallel(geometries: np.ndarray) -> np.ndarray:
    coordinates, index = shapely.get_coordinates(geometries, return_index=True)
    rings = shapely.get_rings(shapely.get_parts(geometries))  # of parts, since it passes over a MultiPolygon
    ends = np.cumsum(shapely.get_num_coordinates(rings))
    slanted = (np.diff(coordinates, axis=0) != 0).all(axis=1)
    slanted[ends[:-1] - 1] = False  # from the end of one ring to the start of the next is no edge
    result = np.ones(len(geometries), bool)
    result[index[1:][slanted]] = False
    return result
