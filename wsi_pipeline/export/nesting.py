"""Objects beneath those that hold them, as QuPath's hierarchy has them, and cells with a nucleus."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import shapely

from wsi_pipeline.export.features import Encoded, FeatureEncoder, Ready, encode_geometries
from wsi_pipeline.qupath.classes import split_class_name
from wsi_pipeline.qupath.gate import gate
from wsi_pipeline.workflow import CellSettings

HELD = 0.8
"""Share of an object's area that lies in another one which holds it: outlines of different levels never fit exactly."""


def parents(shapes: np.ndarray) -> np.ndarray:
    """(N,) int64, for each of N valid shapes the number of the smallest one that holds it; -1 where none does.

    What holds another shape is larger than it, so that following the numbers always comes to an end.
    """
    found = np.full(len(shapes), -1, np.int64)
    areas = shapely.area(shapes)
    inner, outer = shapely.STRtree(shapes).query(shapes)
    possible = (areas[outer] > areas[inner]) & (areas[inner] > 0)
    inner, outer = inner[possible], outer[possible]
    within = shapely.area(_common_box(shapes[inner], shapes[outer])) >= HELD * areas[inner]  # settles most pairs
    inner, outer = inner[within], outer[within]
    held = shapely.area(shapely.intersection(shapes[inner], shapes[outer])) >= HELD * areas[inner]
    inner, outer = inner[held], outer[held]
    largest_first = np.lexsort((-outer, -areas[outer]))
    found[inner[largest_first]] = outer[largest_first]  # the smallest is written last
    return found


def _common_box(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = shapely.bounds(first), shapely.bounds(second)
    low = np.maximum(a[:, :2], b[:, :2])
    return shapely.box(*low.T, *np.maximum(np.minimum(a[:, 2:], b[:, 2:]), low).T)


def encode_nested(encoder: FeatureEncoder, table: pa.Table) -> Encoded:
    """Encode the rows of a table, each within the feature of what holds it.

    Where the encoder's settings tell which classes are cells and nuclei, a cell becomes one of QuPath's with the
    nuclei that lie directly in it; it takes over the measurements of a single one.
    """
    ready = encoder.ready(table)
    of = parents(ready.shapes)
    cells = encoder.settings.cells if encoder.settings.geometry == "polygon" else None
    nuclei = _nuclei_of(ready, of, cells)
    eaten = {row: cell for cell, rows in nuclei.items() for row in rows}
    below: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
    for row in np.argsort(shapely.area(ready.shapes), kind="stable").tolist():
        if row in eaten:  # what lies in a nucleus lies in the cell
            if row in below:
                below[eaten[row]] += below.pop(row)
            continue
        feature = ready.features[row]
        if row in nuclei:
            _make_cell(feature, ready, nuclei[row])
        if row in below:
            feature["properties"]["childObjects"] = [orjson.Fragment(child) for _, child in sorted(below.pop(row))]
        below[int(of[row])].append((row, orjson.dumps(feature)))
    roots = [feature for _, feature in sorted(below[-1])]
    count = len(ready.features) - len(eaten)
    return Encoded(roots, count, ready.vertices, ready.repaired, ready.dropped)


def _nuclei_of(ready: Ready, of: np.ndarray, settings: CellSettings | None) -> dict[int, list[int]]:
    """Rows of the nuclei of every cell that has some, by the cell's row."""
    found: dict[int, list[int]] = defaultdict(list)
    if settings is None:
        return found
    kinds = [_kind(name) for name in ready.rows["class"].to_pylist()]
    for row, parent in enumerate(of.tolist()):
        if parent >= 0 and kinds[row] == settings.nucleus and kinds[parent] == settings.cell:
            found[parent].append(row)
    return found


def _kind(class_name: str | None) -> str | None:
    """What a class says last: ``Tumor: Cell`` is a cell."""
    names = split_class_name(class_name or "")
    return names[-1] if names else None


def _make_cell(feature: dict[str, Any], ready: Ready, nuclei: list[int]) -> None:
    together = gate(np.array([shapely.union_all(ready.shapes[nuclei])], object)).geometries
    feature["nucleusGeometry"] = encode_geometries(together)[0]
    properties = feature["properties"]
    properties["objectType"] = "cell"
    if len(nuclei) == 1 and "measurements" in properties:
        of_nucleus = ready.features[nuclei[0]]["properties"].get("measurements", {})
        properties["measurements"] |= {f"Nucleus: {name}": value for name, value in of_nucleus.items()}
