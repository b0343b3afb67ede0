"""Tissue and artefacts as polygons, the way QuPath shows regions that are no results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from shapely import Polygon, get_parts

from wsi_pipeline.qupath.classes import ARTEFACT, REGION
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.vectorize.arrays import polygons_from_mask


@dataclass(frozen=True, slots=True)
class TissueOutline:
    """One connected piece.

    Attributes:
        class_name: ``Region*`` or ``Artefact*``; QuPath ignores classes that end in ``*``.
        name: ``tissue``, ``pen`` or ``out of focus``.
        geometry: polygon with holes, level-0 px, uncropped.
    """

    class_name: str
    name: str
    geometry: Polygon


def outlines(mask: TissueMask) -> list[TissueOutline]:
    """Every piece of tissue, then every piece of each artefact, from top to bottom."""
    found = _pieces(mask.tissue, mask, REGION, "tissue")
    for name, artefact in mask.artefacts.items():
        found += _pieces(artefact, mask, ARTEFACT, name)
    return found


def _pieces(area: np.ndarray, mask: TissueMask, class_name: str, name: str) -> list[TissueOutline]:
    if not area.any():
        return []
    polygons = get_parts(polygons_from_mask(area, mask.grid.to_level0))
    ordered = sorted(polygons, key=lambda polygon: (polygon.bounds[1], polygon.bounds[0]))
    return [TissueOutline(class_name, name, polygon) for polygon in ordered]
