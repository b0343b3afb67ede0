"""Tissue and artefacts as polygons, the way QuPath shows regions that are no results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from shapely import Polygon, transform

from wsi_pipeline.qupath.classes import ARTEFACT, REGION
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.vectorize.arrays import vectorize_array

SMOOTHING = 1.0
"""px of the overview: its stairs say nothing of the tissue."""


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


def outlines(mask: TissueMask, *, smoothing: float = SMOOTHING) -> list[TissueOutline]:
    """Every piece of tissue, then every piece of each artefact, from top to bottom.

    Args:
        mask: tissue and artefacts.
        smoothing: largest deviation of an outline from the mask, px of the overview; 0 follows its pixels.
    """
    found = _pieces(mask.tissue, mask, REGION, "tissue", smoothing)
    for name, artefact in mask.artefacts.items():
        found += _pieces(artefact, mask, ARTEFACT, name, smoothing)
    return found


def _pieces(area: np.ndarray, mask: TissueMask, class_name: str, name: str, smoothing: float) -> list[TissueOutline]:
    found = vectorize_array(area, "component", tolerance=smoothing)
    polygons = transform(found.geometry, mask.grid.to_level0.apply)
    ordered = sorted(polygons, key=lambda polygon: (polygon.bounds[1], polygon.bounds[0]))
    return [TissueOutline(class_name, name, polygon) for polygon in ordered]
