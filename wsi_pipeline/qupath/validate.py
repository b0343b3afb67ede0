"""Whether QuPath (0.6 or later) will import a GeoJSON file, and what it would see in it.

QuPath's reader has no recovery: one feature it throws on loses every object of the file. The check goes through the
file feature by feature, so its memory does not grow with the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import GeoJSONError
from wsi_pipeline.qupath.checks import Accepted, check_feature
from wsi_pipeline.qupath.gate import needs_reduction, snap
from wsi_pipeline.qupath.jsonstream import Element, read_elements
from wsi_pipeline.qupath.shapes import GEOMETRY_TYPES, Malformed

MANY_OBJECTS, MANY_VERTICES = 250_000, 8_000_000
_BYTES_PER_OBJECT, _BYTES_PER_VERTEX = 3_000, 260
_BATCH = 2048
_ADVICE = "QuPath imports nothing of a file with a bad feature: correct or remove it"


def heap_bytes(objects: int, vertices: int) -> int:
    """Java heap that QuPath needs for the JSON tree while it imports, measured for 0.6-0.8; the objects come on top."""
    return objects * _BYTES_PER_OBJECT + vertices * _BYTES_PER_VERTEX


def size_warning(objects: int, vertices: int) -> str | None:
    """One line when a file is too large for comfort."""
    if objects <= MANY_OBJECTS and vertices <= MANY_VERTICES:
        return None
    return (
        f"{objects} objects with {vertices} vertices need about {heap_bytes(objects, vertices) / 1e9:.1f} GB of memory "
        "while QuPath imports them; split the file, simplify the outlines or export centroids"
    )


@dataclass(slots=True)
class ValidationReport:
    """What QuPath sees in a file that it imports.

    Attributes:
        path: the file.
        objects: objects incl. children.
        by_type: their number by object type.
        by_class: their number by class name; "" is unclassified.
        vertices: positions of all outlines.
        invisible: objects whose outline vanishes on import (no area on the 0.01 px grid, or none at all).
        notes: what QuPath passes over silently, with counts.
    """

    path: str
    objects: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    by_class: Counter[str] = field(default_factory=Counter)
    vertices: int = 0
    invisible: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def heap_bytes(self) -> int:
        """See ``heap_bytes``."""
        return heap_bytes(self.objects, self.vertices)

    @property
    def warnings(self) -> list[str]:
        """One line each."""
        lines = [f"{count} objects {note}" for note, count in sorted(self.notes.items())]
        if self.invisible:
            lines.append(f"{self.invisible} objects will be invisible: nothing is left of their outlines")
        if not self.objects:
            lines.append("holds no objects; QuPath will say that none were found")
        large = size_warning(self.objects, self.vertices)
        return [*lines, large] if large else lines

    def summary(self) -> str:
        """The file in one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.by_type.most_common()) or "no objects"
        classes = ", ".join(f"{name or 'unclassified'} {count}" for name, count in self.by_class.most_common(8))
        line = f"{kinds} ({classes})" if classes else kinds
        return f"{line}; {self.vertices} vertices, about {self.heap_bytes / 1e6:.0f} MB in QuPath"


def validate_file(path: Path | str) -> ValidationReport:
    """Read a GeoJSON file as QuPath would.

    Raises:
        GeoJSONError: QuPath would import nothing; the message names the first bad feature, or the line and column of
            invalid JSON, and why.
    """
    path = Path(path)
    report = ValidationReport(str(path))
    batch: list[tuple[Element, str, BaseGeometry]] = []
    try:
        for element in read_elements(path):
            for accepted in _accepted(element, path, report):
                _count(report, accepted)
                batch += [(element, accepted.place, geometry) for geometry in accepted.geometries]
            if len(batch) >= _BATCH:
                _check_outlines(batch, path, report)
                batch = []
    except GeoJSONError:
        _check_outlines(batch, path, report)  # a bad outline before it is the first bad feature
        raise
    _check_outlines(batch, path, report)
    return report


def feature_place(path: Path, element: Element, place: str = "") -> str:
    """How messages name a feature: by number from 0, line and id."""
    value = element.value if isinstance(element.value, dict) else {}
    known = f", id {value['id']}" if isinstance(value.get("id"), str) else ""
    return f"{path}: features[{element.index}]{place} (line {element.line}{known})"


def _accepted(element: Element, path: Path, report: ValidationReport) -> Iterator[Accepted]:
    value = element.value
    try:
        if not isinstance(value, dict):
            raise Malformed("is not an object")
        if value.get("type") == "Feature":
            yield from check_feature(value)
        elif value.get("type") in GEOMETRY_TYPES and not element.listed:
            yield from check_feature({"type": "Feature", "geometry": value})
        else:
            report.notes[f"of type {value.get('type')!r} instead of Feature are skipped"] += 1
    except Malformed as error:
        raise GeoJSONError(str(error), where=feature_place(path, element), fix=_ADVICE) from None


def _count(report: ValidationReport, accepted: Accepted) -> None:
    report.objects += 1
    report.by_type[accepted.object_type] += 1
    report.by_class[accepted.class_name or ""] += 1
    report.notes.update(accepted.notes)


def _check_outlines(batch: list[tuple[Element, str, BaseGeometry]], path: Path, report: ValidationReport) -> None:
    """Reduce outlines to QuPath's grid as its importer does.

    Raises:
        GeoJSONError: a reduction fails.
    """
    outlines = np.empty(len(batch), dtype=object)
    outlines[:] = [geometry for _, _, geometry in batch]
    report.vertices += int(shapely.get_num_coordinates(outlines).sum())
    reduced = outlines.copy()
    due = needs_reduction(outlines)
    failed = np.zeros(len(batch), bool)
    reduced[due], failed[due] = snap(outlines[due])
    for index in np.flatnonzero(failed)[:1]:
        element, place, geometry = batch[index]
        raise GeoJSONError(
            f"the outline is not valid ({shapely.is_valid_reason(geometry)}): QuPath 0.6 and later refuse it",
            where=feature_place(path, element, place),
            fix=_ADVICE,
        )
    report.invisible += int(shapely.is_empty(reduced).sum())
