"""Objects of a QuPath GeoJSON file, whichever version and menu wrote it.

More forgiving than QuPath where nothing is lost by it: a class without a colour, a null name or an outline that
crosses itself (QuPath up to 0.5 wrote those) are taken; ``validate`` is the strict one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geojson
import numpy as np
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import GeoJSONError
from wsi_pipeline.qupath.checks import OBJECT_TYPES
from wsi_pipeline.qupath.classes import Rgb, clean_class_name
from wsi_pipeline.qupath.gate import mended
from wsi_pipeline.qupath.jsonstream import Element, read_elements
from wsi_pipeline.qupath.shapes import GEOMETRY_TYPES, Malformed, parse_geometry
from wsi_pipeline.qupath.validate import feature_place


@dataclass(frozen=True, slots=True)
class QuPathObject:
    """One object as QuPath stored it.

    Attributes:
        id: UUID or whatever id the file has; None where it has none.
        object_type: ``annotation``, ``detection``, ``cell``, ``tile``, ``tmaCore`` or ``root``.
        geometry: valid outline, line or points in px of the image QuPath opened; None where there is none.
        nucleus: the second outline of a cell, or None.
        is_ellipse: the outline was drawn as an ellipse.
        plane: ``(c, z, t)``; c is -1 for all channels.
        class_name: as QuPath shows it (``Tumor: Positive``), or None.
        class_color: colour the file gives the class, or None.
        name, color, locked, measurements, metadata: the object's own.
        parent: id of the object it is nested in, or None.
        repaired: the outline was not valid and was mended.
        place: file and feature, for messages.
        collection: the other members of the FeatureCollection it came in.
    """

    id: str | None
    object_type: str
    geometry: BaseGeometry | None
    nucleus: BaseGeometry | None = None
    is_ellipse: bool = False
    plane: tuple[int, int, int] = (-1, 0, 0)
    class_name: str | None = None
    class_color: Rgb | None = None
    name: str | None = None
    color: Rgb | None = None
    locked: bool = False
    measurements: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    repaired: bool = False
    place: str = ""
    collection: Mapping[str, Any] = field(default_factory=dict)


def read_objects(path: Path | str) -> Iterator[QuPathObject]:
    """Every object of a ``.geojson``, ``.json``, ``.gz`` or ``.zip`` file, children after their parent.

    Raises:
        GeoJSONError: the file or a feature of it cannot be read; the message names the feature or the line.
    """
    path = Path(path)
    for element in read_elements(path):
        feature = _as_feature(element)
        if feature is not None:
            yield from _objects(feature, element, path, "")


def _as_feature(element: Element) -> Mapping[str, Any] | None:
    """The feature of an element; a bare geometry becomes one; None for what QuPath skips."""
    value = element.value
    if not isinstance(value, dict):
        return None
    if value.get("type") in GEOMETRY_TYPES:
        return {**geojson.Feature(), "geometry": value}
    return value if value.get("type") == "Feature" else None


def _objects(
    feature: Mapping[str, Any], element: Element, path: Path, place: str, parent: str | None = None
) -> Iterator[QuPathObject]:
    where = feature_place(path, element, place)
    try:
        item = replace(_object(feature, where, element.collection), parent=parent)
    except Malformed as error:
        raise GeoJSONError(str(error), where=where, fix="Correct or remove that feature") from None
    yield item
    properties = _members(feature.get("properties"))
    children = properties.get("childObjects", properties.get("children"))
    for number, child in enumerate(children if isinstance(children, list) else []):
        if isinstance(child, dict):
            yield from _objects(child, element, path, f"{place}.childObjects[{number}]", item.id)


def _object(feature: Mapping[str, Any], where: str, collection: Mapping[str, Any]) -> QuPathObject:
    properties = _members(feature.get("properties"))
    shape = _members(feature.get("geometry"))
    geometry, repaired = _valid(parse_geometry(shape))
    nucleus, _ = _valid(parse_geometry(_members(feature.get("nucleusGeometry")), "nucleusGeometry"))
    class_name, class_color = read_classification(properties.get("classification"))
    source_id = feature.get("id")
    legacy = str(source_id) if source_id in OBJECT_TYPES else None
    plane = _members(shape.get("plane"))
    return QuPathObject(
        id=None if source_id is None or legacy else str(source_id),
        object_type=_object_type(properties, legacy),
        geometry=geometry,
        nucleus=nucleus,
        is_ellipse=shape.get("isEllipse") is True,
        plane=(int(plane.get("c", -1)), int(plane.get("z", 0)), int(plane.get("t", 0))),
        class_name=class_name,
        class_color=class_color,
        name=_text(properties.get("name")),
        color=read_color(properties.get("color")),
        locked=properties.get("isLocked") is True,
        measurements=_measurements(properties.get("measurements")),
        metadata={
            key: _plain(value) for key, value in _members(properties.get("metadata")).items() if _is_plain(value)
        },
        repaired=repaired,
        place=where,
        collection=collection,
    )


def _members(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, dict | list) else str(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _valid(geometry: BaseGeometry | None) -> tuple[BaseGeometry | None, bool]:
    """The geometry, mended where it is not valid; None where nothing is left."""
    if geometry is None or geometry.is_empty:
        return None, False
    if geometry.is_valid:
        return geometry, False
    return mended(np.array([geometry], dtype=object))[0], True


def _object_type(properties: Mapping[str, Any], legacy: str | None) -> str:
    key = next((k for k in ("objectType", "object_type", "type") if k in properties), None)
    return OBJECT_TYPES.get(str(properties[key]) if key else legacy or "annotation", "annotation")


def read_color(value: Any) -> Rgb | None:
    """``[r, g, b]``, ``[r, g, b, a]`` or a packed ARGB number → (r, g, b)."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        packed = int(value)
        return packed >> 16 & 255, packed >> 8 & 255, packed & 255
    if isinstance(value, list) and len(value) in (3, 4) and all(isinstance(v, int | float) for v in value):
        red, green, blue = (min(255, max(0, int(v))) for v in value[:3])
        return red, green, blue
    return None


def read_classification(value: Any) -> tuple[str | None, Rgb | None]:
    """Class name and colour of every form of ``classification`` that QuPath wrote."""
    if isinstance(value, str):
        return clean_class_name(value), None
    if not isinstance(value, dict):
        return None, None
    color = read_color(value.get("color", value.get("colorRGB")))
    names = value.get("names")
    if isinstance(names, list):
        return clean_class_name(": ".join(str(name) for name in names)), color
    parent, _ = read_classification(value.get("parentClass"))
    name = _text(value.get("name"))
    return clean_class_name(": ".join(part for part in (parent, name) if part)), color


def _measurements(value: Any) -> dict[str, float]:
    if isinstance(value, list):
        entries: list[tuple[Any, Any]] = [
            (entry.get("name"), entry.get("value")) for entry in value if isinstance(entry, dict)
        ]
    else:
        entries = list(_members(value).items())
    found = {}
    for name, number in entries:
        try:
            found[str(name)] = float(number)
        except (TypeError, ValueError):
            continue  # QuPath leaves out what is no number
    return found
