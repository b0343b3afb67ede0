"""GeoJSON geometries to shapely, refusing what QuPath's reader refuses.

Source: QuPath ``ROITypeAdapters`` (0.6-0.8) and the JTS constructors behind it.
"""

from __future__ import annotations

from typing import Any

import geojson
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

GEOMETRY_TYPES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon")
"""What QuPath reads; GeometryCollection is refused since 0.6."""

_QUARTER_SEGMENTS = 32


class Malformed(ValueError):
    """Why QuPath refuses a part of a feature, as a clause without a full stop."""


def parse_geometry(value: Any, what: str = "geometry") -> BaseGeometry | None:
    """A GeoJSON geometry as shapely geometry, not yet checked for validity; None for ``{}`` (no outline).

    ``isEllipse`` makes the ellipse that fills the bounding box, as in QuPath.

    Raises:
        Malformed: what QuPath's reader throws on.
    """
    if value is None:
        raise Malformed(f"{what} is null")
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not an object")
    if not value:
        return None
    kind = value.get("type")
    if "coordinates" not in value:
        raise Malformed(f"{what} has no coordinates" + (f" ({kind} is not read)" if kind else ""))
    if kind not in GEOMETRY_TYPES:
        raise Malformed(f"{what} is of unknown type {kind!r}")
    geometry = _build(kind, value["coordinates"])
    _check_plane(value.get("plane", {}))
    return _ellipse(geometry) if _truth(value.get("isEllipse")) else geometry


def _build(kind: str, coordinates: Any) -> BaseGeometry:
    try:
        return _BUILDERS[kind](coordinates)
    except Malformed:
        raise
    except (TypeError, ValueError, IndexError, shapely.errors.ShapelyError) as error:
        raise Malformed(f"{kind} coordinates: {_explain(kind, coordinates) or error}") from None


def _explain(kind: str, coordinates: Any) -> str | None:
    """What breaks the GeoJSON standard, in the words of the geojson package."""
    try:
        problem = getattr(geojson, kind)(coordinates).errors()
    except (TypeError, ValueError, IndexError) as error:
        problem = str(error)
    while isinstance(problem, list | tuple) and problem:
        problem = problem[0]
    return str(problem) if problem else None


def _positions(value: Any) -> np.ndarray:
    """(K, 2) float64 from K positions of two or three numbers."""
    if not isinstance(value, list):
        raise ValueError("an array of positions is expected")
    if not value:
        return np.zeros((0, 2))
    try:
        points = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.array([position[:2] for position in value], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError("a position is an array of two or three numbers")
    if not np.isfinite(points[:, :2]).all():
        raise ValueError("a coordinate is not a finite number")
    return points[:, :2]


def _point(value: Any) -> BaseGeometry:
    return shapely.Point(_positions([value])[0])


def _multi_point(value: Any) -> BaseGeometry:
    return shapely.MultiPoint(_positions(value))


def _line(value: Any) -> BaseGeometry:
    points = _positions(value)
    if len(points) == 1:
        raise Malformed("a LineString has one position; it needs two")
    return shapely.LineString(points)


def _multi_line(value: Any) -> BaseGeometry:
    return shapely.MultiLineString([_line(line) for line in value])


def _ring(value: Any) -> Any:
    points = _positions(value)
    if 0 < len(points) < 3:
        raise Malformed(f"a ring has {len(points)} position{'s' * (len(points) > 1)}; it needs four")
    if len(points) and (points[0] != points[-1]).any():
        raise Malformed("a ring is not closed: its first and last position differ")
    if len(points) == 3:  # JTS takes "out and back" for a ring without area, GEOS wants a fourth position
        points = points[[0, 1, 2, 2]]
    return shapely.linearrings(points) if len(points) else None


def _polygon(value: Any) -> BaseGeometry:
    if not isinstance(value, list):
        raise ValueError("an array of rings is expected")
    shell, *holes = [_ring(ring) for ring in value] or [None]
    if shell is None:
        if any(hole is not None for hole in holes):
            raise Malformed("a polygon has holes but an empty outline")
        return shapely.Polygon()
    return shapely.polygons(shell, [hole for hole in holes if hole is not None] or None)


def _multi_polygon(value: Any) -> BaseGeometry:
    return shapely.MultiPolygon([_polygon(part) for part in value])


_BUILDERS = {
    "Point": _point,
    "MultiPoint": _multi_point,
    "LineString": _line,
    "MultiLineString": _multi_line,
    "Polygon": _polygon,
    "MultiPolygon": _multi_polygon,
}


def _check_plane(plane: Any) -> None:
    if not isinstance(plane, dict):
        raise Malformed("plane is not an object")
    for key, value in plane.items():
        if key not in ("c", "z", "t"):
            raise Malformed(f"plane has the member {key!r}; only c, z and t are read")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise Malformed(f"plane: {key} is not a whole number")


def _truth(value: Any) -> bool:
    """As Gson reads a boolean: true, or the text "true"."""
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _ellipse(geometry: BaseGeometry) -> BaseGeometry:
    if geometry.is_empty:
        return geometry
    x0, y0, x1, y1 = geometry.bounds
    circle = shapely.buffer(shapely.Point(0, 0), 1, quad_segs=_QUARTER_SEGMENTS)
    half, center = np.array([x1 - x0, y1 - y0]) / 2, np.array([x0 + x1, y0 + y1]) / 2
    return shapely.transform(circle, lambda xy: xy * half + center)
