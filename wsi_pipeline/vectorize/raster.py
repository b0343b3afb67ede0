"""Polygons → pixels: a pixel is inside if its centre is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from wsi_pipeline.vectorize.ragged import owners, spans

_BLOCK = 1 << 22
"""Pixels painted at once."""


def rasterize(polygons: np.ndarray, ids: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Paint polygons into an image; the exact inverse of ``polygons_from_labels``.

    A pixel belongs to a polygon if its centre is inside it (even-odd rule). A centre on an outline belongs to the
    polygon on its right or below, so polygons that share a border share no pixel. Later polygons cover earlier ones.

    Args:
        polygons: (N,) Polygon or MultiPolygon, px of the image; may reach beyond it. Other geometries are skipped.
        ids: (N,) values to paint; their dtype is the image's.
        shape: (H, W).

    Returns:
        (H, W) array, 0 where there is no polygon.
    """
    ids = np.asarray(ids)
    image = np.zeros(shape, ids.dtype)
    runs = _inside_runs(_segments(np.asarray(polygons, object)), shape)
    counts = runs.stop - runs.start
    block = np.cumsum(counts) // _BLOCK
    for part in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(block)) + 1):
        pixels = spans(runs.row[part] * shape[1] + runs.start[part], counts[part])
        image.ravel()[pixels] = np.repeat(ids[runs.polygon[part]], counts[part])
    return image


@dataclass(frozen=True, slots=True)
class _Runs:
    """Pixels ``start`` to ``stop`` (exclusive) of a row, inside a polygon; sorted by polygon."""

    polygon: np.ndarray
    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def _segments(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Polygon number (S,), start (S, 2) and end (S, 2) of all sides, each pointing down."""
    parts, polygon = shapely.get_parts(polygons, return_index=True)
    areal = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    rings, part = shapely.get_rings(parts[areal], return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    sides = np.flatnonzero(ring[1:] == ring[:-1])
    start, end = xy[sides], xy[sides + 1]
    upward = start[:, 1] > end[:, 1]
    start[upward], end[upward] = end[upward], start[upward]
    return polygon[areal][part[ring[sides]]], start, end


def _inside_runs(segments: tuple[np.ndarray, np.ndarray, np.ndarray], shape: tuple[int, int]) -> _Runs:
    """Between every first and second crossing of a row's centre line with a polygon's sides."""
    polygon, start, end = segments
    top = np.clip(np.ceil(start[:, 1] - 0.5), 0, shape[0]).astype(np.int64)
    bottom = np.clip(np.ceil(end[:, 1] - 0.5), 0, shape[0]).astype(np.int64)
    counts = bottom - top
    row, side = spans(top, counts), owners(counts)
    (x0, y0), (x1, y1) = start[side].T, end[side].T
    crossing = x0 + (row + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
    order = np.lexsort((crossing, row, polygon[side]))
    column = np.clip(np.ceil(crossing[order] - 0.5), 0, shape[1]).astype(np.int64)
    rows, numbers = row[order][::2], polygon[side][order][::2]
    return _Runs(numbers, rows, column[::2], column[1::2])
