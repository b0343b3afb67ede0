"""Shape measurements as QuPath defines them, over arrays of polygons.

Source: QuPath ``ObjectMeasurements`` (0.8): outlines are scaled to µm first, then measured.
"""

from __future__ import annotations

import numpy as np
import shapely

from wsi_pipeline.geometry import Resolution

SHAPE_MEASUREMENTS = {
    "area_um2": "Area µm^2",
    "perimeter_um": "Length µm",
    "circularity": "Circularity",
    "solidity": "Solidity",
    "max_diameter_um": "Max diameter µm",
    "min_diameter_um": "Min diameter µm",
}
"""Columns of the object table and QuPath's names for them."""

_PAIRS = 2_000_000
"""Edge-vertex pairs held at once by the caliper."""


def measure_shapes(geometries: np.ndarray, resolution: Resolution) -> dict[str, np.ndarray]:
    """Measure (N,) polygons given in level-0 px.

    Returns:
        (N,) float64 columns named as in ``SHAPE_MEASUREMENTS``: area in µm²; perimeter incl. holes in µm; circularity
        4πA/P² of the outer ring (NaN where there are several parts); area / convex area; diameter of the smallest
        enclosing circle in µm; smallest width between two parallel lines in µm. NaN for empty geometries.
    """
    outlines = shapely.transform(np.asarray(geometries, object), lambda xy: xy * (resolution.x, resolution.y))
    area, perimeter = shapely.area(outlines), shapely.length(outlines)
    hulls = shapely.convex_hull(outlines)
    empty = shapely.is_empty(outlines) | shapely.is_missing(outlines)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "area_um2": area,
            "perimeter_um": perimeter,
            "circularity": _circularity(outlines),
            "solidity": area / shapely.area(hulls),
            "max_diameter_um": 2 * shapely.minimum_bounding_radius(outlines),
            "min_diameter_um": minimum_width(hulls),
        }
    return {name: np.where(empty | ~np.isfinite(values), np.nan, values) for name, values in columns.items()}


def _circularity(polygons: np.ndarray) -> np.ndarray:
    # Missing for anything but a single polygon: get_exterior_ring gives None there, and None measures NaN.
    shells = shapely.get_exterior_ring(polygons)
    return 4 * np.pi * shapely.area(shapely.polygons(shells)) / shapely.length(shells) ** 2


def minimum_width(hulls: np.ndarray) -> np.ndarray:
    """Smallest distance of two parallel lines that enclose each convex hull; (N,) float64, NaN where it is no area.

    One of the two lines runs along an edge of the hull, so every edge is tried against every vertex, for many hulls
    at a time.
    """
    width = np.full(len(hulls), np.nan)
    areal = np.flatnonzero(shapely.get_type_id(hulls) == shapely.GeometryType.POLYGON)
    points, offsets = _vertices(hulls[areal])
    counts = np.diff(offsets)
    order = np.argsort(counts, kind="stable")
    start = 0
    while start < len(order):
        stop = _group_end(counts[order], start)
        chosen = order[start:stop]
        width[areal[chosen]] = _caliper(_padded(points, offsets, counts, chosen))
        start = stop
    return width


def _vertices(hulls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = shapely.get_num_coordinates(hulls)
    offsets = np.zeros(len(hulls) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return shapely.get_coordinates(hulls), offsets


def _group_end(sorted_counts: np.ndarray, start: int) -> int:
    """End of a run of hulls of similar size that together stay within the pair budget."""
    largest = int(sorted_counts[start] * 1.25) + 1
    similar = int(np.searchsorted(sorted_counts, largest, side="right"))
    return min(similar, start + max(1, _PAIRS // largest**2))


def _padded(points: np.ndarray, offsets: np.ndarray, counts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n, h, 2) vertices; shorter hulls repeat their last vertex."""
    place = np.minimum(np.arange(counts[chosen].max()), counts[chosen, None] - 1)
    return points[offsets[chosen, None] + place]


def _caliper(rings: np.ndarray) -> np.ndarray:
    """(n,) widths of closed convex rings (n, h, 2)."""
    rings = rings - rings[:, :1]  # far from the origin the cross products would lose digits
    edges = np.diff(rings, axis=1)
    length = np.hypot(edges[..., 0], edges[..., 1])
    normals = np.stack([-edges[..., 1], edges[..., 0]], axis=-1)
    reach = normals @ rings.transpose(0, 2, 1)
    across = reach.max(axis=2) - reach.min(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(length > 0, across / length, np.inf).min(axis=1)
