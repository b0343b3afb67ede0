"""Whether QuPath's reader takes a feature: the checks of its type adapters, without what it makes of them.

Source: QuPath ``QuPathTypeAdapters``, ``GsonTools.PathClassTypeAdapter`` (0.6-0.8). Anything refused here throws there,
and one throw loses the whole file.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

from shapely.geometry.base import BaseGeometry

from wsi_pipeline.qupath.jsonstream import RepeatedKeys
from wsi_pipeline.qupath.shapes import Malformed, parse_geometry

OBJECT_TYPES = {
    "annotation": "annotation",
    "PathAnnotationObject": "annotation",
    "detection": "detection",
    "PathDetectionObject": "detection",
    "cell": "cell",
    "PathCellObject": "cell",
    "tile": "tile",
    "PathTileObject": "tile",
    "tmaCore": "tmaCore",
    "tma_core": "tmaCore",
    "TMACoreObject": "tmaCore",
    "root": "root",
    "PathRootObject": "root",
}
"""Every object type QuPath knows, with the names older versions wrote."""

_NUMBER_TEXT = re.compile(r"\s*[+-]?(nan|infinity|inf|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?[fd]?)\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A feature QuPath reads, as far as a report needs it.

    Attributes:
        place: where it is inside its top-level feature, "" or ``.childObjects[0]``.
        object_type: one of the values of ``OBJECT_TYPES``.
        class_name: as QuPath shows it, or None.
        geometries: its outline and nucleus, not yet checked for validity.
        notes: what QuPath passes over with a warning or without a word.
    """

    place: str
    object_type: str
    class_name: str | None
    geometries: list[BaseGeometry]
    notes: list[str]


def check_feature(feature: dict[str, Any], place: str = "") -> list[Accepted]:
    """The feature and its children as QuPath reads them.

    Raises:
        Malformed: QuPath throws; the message says on what.
    """
    notes: list[str] = []
    kind = _check_id(feature, notes)
    if "geometry" not in feature:
        raise Malformed("geometry is missing")
    geometries = [parse_geometry(feature["geometry"])]
    properties = feature.get("properties", {})
    if not isinstance(properties, dict):
        raise Malformed(f"properties is {_kind(properties)}, not an object")
    _check_text(properties, "name")
    _check_color(properties.get("color"))
    class_name = check_classification(properties.get("classification"))
    _check_measurements(properties.get("measurements"), notes)
    kind = _object_type(properties, kind, notes)
    if "nucleusGeometry" in feature:
        geometries.append(parse_geometry(feature["nucleusGeometry"], "nucleusGeometry"))
    if geometries[0] is None:
        notes.append("without an outline")
    known = [geometry for geometry in geometries if geometry is not None]
    return [Accepted(place, kind, class_name, known, notes), *_children(properties, place)]


def _children(properties: dict[str, Any], place: str) -> list[Accepted]:
    key = "childObjects" if "childObjects" in properties else "children"
    children = properties.get(key)
    if not isinstance(children, list):
        return []
    found = []
    for number, child in enumerate(children):
        step = f"{key}[{number}]"
        try:
            if not isinstance(child, dict):
                raise Malformed(f"is {_kind(child)}, not an object")
            found += check_feature(child, f"{place}.{step}")
        except Malformed as error:
            raise Malformed(f"{step}: {error}") from None
    return found


def _check_id(feature: dict[str, Any], notes: list[str]) -> str:
    """The object type that files of QuPath 0.2 kept in the id, else the default."""
    if "id" not in feature:
        return "annotation"
    _check_text(feature, "id")
    text = str(feature["id"])
    if text in OBJECT_TYPES and text.startswith(("Path", "TMA")):
        return OBJECT_TYPES[text]
    if not is_uuid(text):
        notes.append("with an id that is no UUID, which QuPath replaces")
    return "annotation"


def is_uuid(text: str) -> bool:
    """Whether QuPath keeps an id (five groups of hexadecimal digits)."""
    if text.count("-") != 4:
        return False
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _object_type(properties: dict[str, Any], default: str, notes: list[str]) -> str:
    key = next((k for k in ("objectType", "object_type", "type") if k in properties), None)
    if key is None:
        return default
    _check_text(properties, key)
    name = str(properties[key])
    if name not in OBJECT_TYPES and name != "unknown":
        notes.append(f"of unknown type {name!r}, which become annotations")
    return OBJECT_TYPES.get(name, "annotation")


def _check_text(members: dict[str, Any], key: str) -> None:
    value = members.get(key, "")
    if value is None or isinstance(value, dict | list):
        raise Malformed(f"{key} is {_kind(value)}, not text")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names[type(value) if type(value) in names else dict]


def _check_color(color: Any) -> None:
    if isinstance(color, list):
        if len(color) == 3:
            _check_whole(color, "color")
    elif color is not None and not isinstance(color, dict):
        _check_whole([color], "color")


def _check_whole(values: list[Any], what: str) -> None:
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value != value // 1:
            raise Malformed(f"{what} holds {value!r}, which is not a whole number")


def check_classification(value: Any) -> str | None:
    """The class name QuPath makes of a classification, None for unclassified.

    Raises:
        Malformed: a form QuPath does not read.
    """
    if value is None or value == {}:
        return None
    if isinstance(value, str):
        return _joined(value.split(":"))
    if not isinstance(value, dict):
        raise Malformed(f"classification is {_kind(value)}, not text or an object")
    if "colorRGB" in value or "parentClass" in value:
        return _legacy(value)
    if "color" not in value:
        raise Malformed('classification has no "color"')
    if "name" not in value and "names" not in value:
        raise Malformed('classification has neither "name" nor "names"')
    _check_class_color(value["color"])
    return _class_name(value)


def _check_class_color(color: Any) -> None:
    if color is None:
        return
    if not isinstance(color, list):
        raise Malformed("classification color is not an array")
    if len(color) not in (0, 1, 3, 4):
        raise Malformed(f"classification color has {len(color)} values; 0, 1, 3 or 4 are read")
    _check_whole(color, "classification color")


def _class_name(value: dict[str, Any]) -> str | None:
    name, names = value.get("name"), value.get("names")
    if name is not None:
        _check_text(value, "name")
        return _joined(str(name).split(":"))
    if not names:
        return None
    if not isinstance(names, list) or not all(isinstance(part, str) for part in names):
        raise Malformed("classification names is not an array of texts")
    if any(":" in part for part in names):
        raise Malformed("classification names hold ':', which separates names")
    return _joined(names)


def _legacy(value: dict[str, Any]) -> str | None:
    _check_text({"name": value["name"]} if value.get("name") is not None else {}, "name")
    parent = value.get("parentClass")
    above = _legacy(parent) if isinstance(parent, dict) else None
    name = value.get("name")
    if name is None:
        return above
    return _joined([*([above] if above else []), str(name)])


def _joined(parts: list[str]) -> str:
    while len(parts) > 1 and not parts[-1]:  # as Java splits text
        parts = parts[:-1]
    for part in parts:
        if not part.strip():
            raise Malformed("classification has a blank name")
        if "\n" in part or "\r" in part:
            raise Malformed("classification name holds a line break")
    return ": ".join(part.strip() for part in parts)


def _check_measurements(value: Any, notes: list[str]) -> None:
    if isinstance(value, RepeatedKeys):
        raise Malformed(f"measurements hold {value.key!r} twice")
    if isinstance(value, dict):
        for name, number in value.items():
            _check_measurement(name, number, notes)
    elif isinstance(value, list):
        for entry in value:
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "value" not in entry:
                raise Malformed("measurements is a list but an entry has no name and value")
            if isinstance(entry["value"], dict | list | bool | None):
                raise Malformed(f"measurement {entry['name']!r} is {_kind(entry['value'])}, not a number")
            _check_measurement(entry["name"], entry["value"], notes)


def _check_measurement(name: str, value: Any, notes: list[str]) -> None:
    if isinstance(value, str):
        if not _NUMBER_TEXT.fullmatch(value):
            raise Malformed(f"measurement {name!r} is the text {value!r}, not a number")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        notes.append("with measurements that are no numbers, which QuPath leaves out")
