"""Rings of corners → polygons, with holes in their shells, small parts left out, and one order for everything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from wsi_pipeline.vectorize.ragged import offsets, owners, spans
from wsi_pipeline.vectorize.rings import corner_key, double_area, split_touching, start_at_smallest


@dataclass(frozen=True, slots=True)
class Rings:
    """R closed rings with P corners; the rings of one region are one outer ring and its holes.

    Attributes:
        xy: (P, 2) int64 px.
        touches: (P,) bool, corners a ring may pass twice.
        offset: (R + 1,) int64.
        region: (R,) int64, the connected region each ring bounds.
        label: (R,) int64, the label of that region.
    """

    xy: np.ndarray
    touches: np.ndarray
    offset: np.ndarray
    region: np.ndarray
    label: np.ndarray


@dataclass(frozen=True, slots=True)
class VectorObjects:
    """N objects, sorted by label, then by their topmost, leftmost corner.

    Attributes:
        label: (N,) int64.
        geometry: (N,) object, valid shapely Polygon or MultiPolygon with integer corners, px of the label image. Outer
            rings run counter-clockwise in the mathematical sense; every ring starts at its topmost, leftmost corner.
    """

    label: np.ndarray
    geometry: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def build_objects(rings: Rings, *, by_label: bool, min_area: float = 0.0, fill_holes: float = 0.0) -> VectorObjects:
    """Make polygons of rings.

    Args:
        rings: all rings of every region in it.
        by_label: regions of one label are one object (a MultiPolygon if there are several).
        min_area: objects smaller than this are dropped, px².
        fill_holes: holes smaller than this are filled, px², whatever lies in them.
    """
    rings = _canonical(rings)
    area = double_area(rings.xy, rings.offset) / 2
    rings, area = _choose(rings, area, (area > 0) | (-area >= fill_holes))
    # The outer ring holds the smallest corner of a region, so it comes first in its region.
    corner = rings.xy[rings.offset[:-1]]
    key = corner_key(corner[:, 0], corner[:, 1])
    rank = np.lexsort((key, area < 0, rings.region))
    shell = area[rank] > 0
    parts = _polygons(_reordered(rings, rank), shell)
    of_part = rank[shell]
    label, part_key = rings.label[of_part], key[of_part]
    part_area = np.bincount(np.cumsum(shell) - 1, weights=area[rank], minlength=len(parts))

    order = np.lexsort((part_key, label))
    label, parts, part_area = label[order], parts[order], part_area[order]
    new = np.ones(len(label), bool)
    if by_label:
        new[1:] = label[1:] != label[:-1]
    number = np.cumsum(new) - 1
    large = np.bincount(number, weights=part_area, minlength=int(new.sum())) >= min_area
    return VectorObjects(label[new][large], _merged(parts, number, new)[large])


def _canonical(rings: Rings) -> Rings:
    """Cut rings that touch themselves and start every ring at its smallest corner."""
    order, offset = split_touching(rings.xy, rings.touches, rings.offset)
    source = np.searchsorted(rings.offset, order[offset[:-1]], side="right") - 1
    order = order[start_at_smallest(rings.xy[order], offset)]
    return Rings(rings.xy[order], rings.touches[order], offset, rings.region[source], rings.label[source])


def _reordered(rings: Rings, rank: np.ndarray) -> Rings:
    counts = np.diff(rings.offset)[rank]
    points = spans(rings.offset[rank], counts)
    return Rings(rings.xy[points], rings.touches[points], offsets(counts), rings.region[rank], rings.label[rank])


def _choose(rings: Rings, area: np.ndarray, chosen: np.ndarray) -> tuple[Rings, np.ndarray]:
    if chosen.all():
        return rings, area
    return _reordered(rings, np.flatnonzero(chosen)), area[chosen]


def _polygons(rings: Rings, shell: np.ndarray) -> np.ndarray:
    """One polygon per outer ring; its holes are the rings that follow it."""
    if not len(shell):
        return np.zeros(0, object)
    linear = shapely.linearrings(rings.xy.astype(np.float64), indices=owners(np.diff(rings.offset)))
    return shapely.polygons(linear, indices=np.cumsum(shell) - 1)


def _merged(parts: np.ndarray, number: np.ndarray, new: np.ndarray) -> np.ndarray:
    """One geometry per object: its part, or a MultiPolygon of its parts."""
    merged = parts[new]
    count = np.bincount(number, minlength=len(merged))
    several = np.flatnonzero(count > 1)
    if len(several):
        rows = count[number] > 1
        index = np.searchsorted(several, number[rows])
        merged[several] = shapely.multipolygons(parts[rows], indices=index)
    return merged
