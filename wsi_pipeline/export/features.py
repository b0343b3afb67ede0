"""Rows of the object table as GeoJSON features that QuPath imports, one line of bytes each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import shapely

from wsi_pipeline.export.measurements import SHAPE_MEASUREMENTS
from wsi_pipeline.export.table import probability_columns, unpack_color
from wsi_pipeline.qupath.classes import Rgb, class_color, split_class_name
from wsi_pipeline.qupath.gate import gate
from wsi_pipeline.workflow import ExportSettings

MEASUREMENTS = {
    **SHAPE_MEASUREMENTS,
    "predicted_iou": "Predicted IoU",
    "stability": "Stability score",
    "detection": "Detection score",
}
"""Columns of the object table and the names of their measurements in QuPath, in the order they are written.

The probabilities of recognised objects come after them.
"""

_DIGITS = 6
_DECIMALS = 2


@dataclass(frozen=True, slots=True)
class Ready:
    """N objects of one table that passed the gate, in row order.

    Attributes:
        rows: their rows.
        shapes: (N,) outlines, level-0 px of QuPath's image.
        features: the feature of each, to be dumped.
        vertices: positions in them.
        repaired, dropped: as of ``Encoded``.
    """

    rows: pa.Table
    shapes: np.ndarray
    features: list[dict[str, Any]]
    vertices: int
    repaired: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """Features made of one table.

    Attributes:
        features: JSON of every object that passed the gate, in row order; of nested ones, of those that lie in none.
        objects: how many they are, with those within them.
        vertices: positions in them.
        repaired, dropped: objects whose outline was mended, and those with nothing left of it.
    """

    features: list[bytes]
    objects: int
    vertices: int
    repaired: int
    dropped: int


class FeatureEncoder:
    """Turns tables of ``OBJECT_SCHEMA`` into features.

    Args:
        offset: level-0 px of QuPath's pixel (0, 0).
        settings: measurements or not, polygons or centroids, locked annotations or not.
        class_colors: colours of classes that are not QuPath's own.
    """

    def __init__(
        self, offset: tuple[float, float], settings: ExportSettings, class_colors: Mapping[str, Rgb | None]
    ) -> None:
        self.offset, self.settings, self.class_colors = offset, settings, class_colors
        self.classifications: dict[str | None, orjson.Fragment | None] = {None: None}

    def encode(self, table: pa.Table, *, outlines: bool = False) -> Encoded:
        """Encode the rows of a table; ``outlines`` keeps outlines whatever the settings say."""
        ready = self.ready(table, outlines=outlines)
        features = [orjson.dumps(feature) for feature in ready.features]
        return Encoded(features, len(features), ready.vertices, ready.repaired, ready.dropped)

    def ready(self, table: pa.Table, *, outlines: bool = False) -> Ready:
        """The features of the rows of a table; see ``encode``."""
        geometries = shapely.from_wkb(table["geometry"].to_numpy())
        moved = shapely.transform(geometries, lambda xy: xy - self.offset)
        gated = gate(moved)
        shapes = np.where(_is_points_or_lines(moved), moved, gated.geometries)
        kept = np.flatnonzero(~shapely.is_missing(shapes))
        shapes = shapes[kept]
        shown = shapely.centroid(shapes) if self.settings.geometry == "centroid" and not outlines else shapes
        rows = table.take(pa.array(kept))
        parts = zip(rows["id"].to_pylist(), encode_geometries(shown), self.properties(rows), strict=True)
        features = [
            {"type": "Feature", "id": id_, "geometry": geometry, "properties": properties}
            for id_, geometry, properties in parts
        ]
        vertices = int(shapely.get_num_coordinates(shown).sum())
        return Ready(rows, shapes, features, vertices, int(gated.repaired.sum()), len(table) - len(kept))

    def properties(self, rows: pa.Table) -> list[dict[str, Any]]:
        """The ``properties`` member of every row; what is null is left out."""
        columns = ("object_type", "name", "color", "class", "locked", "metadata", "prompt_id")
        values = zip(*(rows[name].to_pylist() for name in columns), strict=True)
        found = [self._properties(*row) for row in values]
        if self.settings.measurements:
            for properties, measured in zip(found, encode_measurements(rows), strict=True):
                if measured:
                    properties["measurements"] = measured
        return found

    def _properties(
        self,
        object_type: str,
        name: str | None,
        color: int | None,
        class_name: str | None,
        locked: bool,
        metadata: str | None,
        prompt_id: str | None,
    ) -> dict[str, Any]:
        properties: dict[str, Any] = {"objectType": object_type}
        if name:
            properties["name"] = name
        if color is not None:
            properties["color"] = list(unpack_color(color))
        classification = self._classification(class_name)
        if classification is not None:
            properties["classification"] = classification
        if object_type == "annotation" and (locked or self.settings.lock):
            properties["isLocked"] = True
        kept = encode_metadata(metadata, prompt_id)
        if kept:
            properties["metadata"] = kept
        return properties

    def _classification(self, name: str | None) -> orjson.Fragment | None:
        if name not in self.classifications:
            self.classifications[name] = encode_classification(name or "", self.class_colors)
        return self.classifications[name]


def encode_classification(name: str, colors: Mapping[str, Rgb | None]) -> orjson.Fragment | None:
    """``{"name", "color"}``, or ``{"names", "color"}`` for a derived class; None for a blank name."""
    names = split_class_name(name)
    if not names:
        return None
    naming = {"name": names[0]} if len(names) == 1 else {"names": names}
    return orjson.Fragment(orjson.dumps({**naming, "color": list(class_color(name, colors))}))


def encode_metadata(text: str | None, prompt_id: str | None) -> dict[str, str]:
    """Metadata as QuPath keeps it, texts only, with the id of the prompt the object answers."""
    members = orjson.loads(text) if text else {}
    kept = {key: str(value) for key, value in members.items() if isinstance(value, str | int | float)}
    if prompt_id:
        kept["prompt_id"] = prompt_id
    return kept


def encode_measurements(rows: pa.Table) -> list[dict[str, float]]:
    """Measurements by QuPath's names, to 6 significant digits; what is not finite is left out."""
    measured = {shown: rows[column] for column, shown in MEASUREMENTS.items()} | probability_columns(rows)
    columns = [_significant(column.to_numpy().astype(np.float64)).tolist() for column in measured.values()]
    return [
        {
            name: int(value) if value.is_integer() else value
            for name, value in zip(measured, row, strict=True)
            if math.isfinite(value)
        }
        for row in zip(*columns, strict=True)
    ]


def _significant(values: np.ndarray) -> np.ndarray:
    """Round to ``_DIGITS`` significant digits; multiplying or dividing by a whole power of ten keeps the text short."""
    size = np.abs(values)
    sized = np.isfinite(values) & (size > 0)
    exponent = np.zeros(len(values))
    exponent[sized] = _DIGITS - 1 - np.floor(np.log10(size[sized]))
    up, down = 10.0 ** np.maximum(exponent, 0), 10.0 ** np.maximum(-exponent, 0)
    return np.rint(values * up / down) / up * down


def _is_points_or_lines(geometries: np.ndarray) -> np.ndarray:
    """(N,) bool: prompts, which QuPath takes as they are; the gate is for areas."""
    return np.isin(shapely.get_dimensions(geometries), (0, 1)) & ~shapely.is_empty(geometries)


def encode_geometries(shapes: np.ndarray) -> list[orjson.Fragment]:
    """(N,) valid polygons, points or lines as GeoJSON; shells counter-clockwise, at most two decimals."""
    areal = shapely.get_dimensions(shapes) == 2
    encoded = np.empty(len(shapes), dtype=object)
    encoded[areal] = _encode_areas(shapes[areal])
    rounded = shapely.transform(shapes[~areal], lambda xy: np.round(xy, _DECIMALS) + 0.0)
    encoded[~areal] = [orjson.Fragment(_trimmed(text.encode())) for text in shapely.to_geojson(rounded)]
    return encoded.tolist()


def _encode_areas(shapes: np.ndarray) -> list[orjson.Fragment]:
    if len(shapes) == 0:
        return []
    _, points, offsets = shapely.to_ragged_array(shapely.orient_polygons(shapes), include_z=False)
    pairs = (np.round(points, _DECIMALS) + 0.0).tolist()
    rings, polygons = (part.tolist() for part in offsets[:2])
    geometries = offsets[2].tolist() if len(offsets) == 3 else range(len(shapes) + 1)
    nested = [pairs[a:b] for a, b in _spans(rings)]
    areas = [nested[a:b] for a, b in _spans(polygons)]
    return [
        _geometry("Polygon", areas[a]) if b - a == 1 else _geometry("MultiPolygon", areas[a:b])
        for a, b in _spans(geometries)
    ]


def _spans(offsets: Any) -> Any:
    return itertools.pairwise(offsets)


def _geometry(kind: str, coordinates: Any) -> orjson.Fragment:
    text = _trimmed(orjson.dumps(coordinates))
    return orjson.Fragment(b'{"type":"%s","coordinates":%s}' % (kind.encode(), text))


def _trimmed(text: bytes) -> bytes:
    # There is no text but the type in there, so ".0" before a comma or bracket ends a whole number.
    return text.replace(b".0,", b",").replace(b".0]", b"]")
