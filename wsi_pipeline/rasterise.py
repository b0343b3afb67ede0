"""Polygons to pixels: a pixel is inside when its centre is.

The opposite of tracing pixel edges: an outline that was traced from a mask gives that mask again.
"""

from __future__ import annotations

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.geometry import Affine2D


def rasterise(geometry: BaseGeometry, to_raster: Affine2D, width: int, height: int) -> np.ndarray:
    """The (height, width) bool mask of a geometry's polygons; holes and several parts included.

    Args:
        geometry: of any type; points and lines have no area and leave nothing.
        to_raster: maps its coordinates to px of the raster.
        width, height: size of the raster; the geometry may reach past it.
    """
    x0, y0, x1, y1 = _rising_edges(geometry, to_raster)
    # an edge crosses the centre line of rows first ... last - 1; half open, so that joints count once
    first = np.clip(np.ceil(y0 - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(y1 - 0.5), 0, height).astype(np.int64)
    count = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    odd = (crossings & 1).astype(bool).reshape(height, width + 1)
    return np.logical_xor.accumulate(odd, axis=1)[:, :width]


def paint(raster: np.ndarray, geometry: BaseGeometry, to_raster: Affine2D, value: int) -> None:
    """Set the px of a raster (H, W) that a geometry holds; only its bounding box is looked at."""
    x0, y0, x1, y1 = _box(geometry, to_raster, raster.shape[1], raster.shape[0])
    if x1 > x0 and y1 > y0:
        inside = rasterise(geometry, Affine2D(tx=-x0, ty=-y0).after(to_raster), x1 - x0, y1 - y0)
        raster[y0:y1, x0:x1][inside] = value


def coverage(geometry: BaseGeometry, to_raster: Affine2D, size: int, *, subpixels: int = 4) -> np.ndarray:
    """Share of each pixel of a (size, size) float32 raster that the geometry covers, on ``subpixels``² samples."""
    covered = np.zeros((size, size), np.float32)
    x0, y0, x1, y1 = _box(geometry, to_raster, size, size)
    if x1 > x0 and y1 > y0:
        finer = Affine2D(subpixels, subpixels, -subpixels * x0, -subpixels * y0).after(to_raster)
        fine = rasterise(geometry, finer, subpixels * (x1 - x0), subpixels * (y1 - y0))
        blocks = fine.reshape(y1 - y0, subpixels, x1 - x0, subpixels)
        covered[y0:y1, x0:x1] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return covered


def _box(geometry: BaseGeometry, to_raster: Affine2D, width: int, height: int) -> tuple[int, int, int, int]:
    """``x0, y0, x1, y1`` (exclusive) of the px within the raster that a geometry's bounds touch."""
    bounds = to_raster.apply(np.reshape(geometry.bounds, (2, 2)))
    x0, y0 = np.clip(np.floor(bounds[0]), 0, (width, height)).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(bounds[1]), 0, (width, height)).astype(int).tolist()
    return x0, y0, x1, y1


def _rising_edges(geometry: BaseGeometry, to_raster: Affine2D) -> np.ndarray:
    """(4, E) float64 ``x0, y0, x1, y1`` of all ring edges that are not level, lower end first; raster px."""
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    parts = shapely.get_parts(geometry)
    while (shapely.get_type_id(parts) > shapely.GeometryType.POLYGON).any():
        parts = shapely.get_parts(parts)
    rings = shapely.get_rings(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    xy = to_raster.apply(xy)
    same = np.flatnonzero(ring[1:] == ring[:-1])
    start, end = xy[same], xy[same + 1]
    sloped = start[:, 1] != end[:, 1]
    start, end = start[sloped], end[sloped]
    upward = (start[:, 1] < end[:, 1])[:, None]
    return np.concatenate([np.where(upward, start, end), np.where(upward, end, start)], axis=1).T
