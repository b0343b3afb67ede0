"""Polygons of label images that fit into memory."""

from __future__ import annotations

import numpy as np
import shapely

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.vectorize.assemble import assemble_chunk
from wsi_pipeline.vectorize.chunks import ChunkGrid, trace_chunk
from wsi_pipeline.vectorize.plan import Objects, plan_assembly
from wsi_pipeline.vectorize.polygons import VectorObjects


def vectorize_array(
    labels: np.ndarray,
    objects: Objects = "label",
    *,
    tolerance: float = 0.0,
    min_area: float = 0.0,
    fill_holes: float = 0.0,
) -> VectorObjects:
    """Polygons along the pixel edges of a label image.

    Args:
        labels: (H, W) integers ≥ 0 or bool; 0 is background.
        objects: ``"label"``: all pixels of one label are one object; ``"component"``: every 4-connected piece is.
        tolerance: largest deviation of simplified outlines, px; neighbours keep a common border.
        min_area: smaller objects are dropped, px².
        fill_holes: smaller holes are filled, px².

    Returns:
        Objects in px of the array.
    """
    if not labels.size:
        return VectorObjects(np.zeros(0, np.int64), np.zeros(0, object))
    grid = ChunkGrid(labels.shape[1], labels.shape[0], max(labels.shape))
    outlines = trace_chunk(labels, grid, 0, tolerance)
    task = plan_assembly([outlines.facts], objects).task(0)
    return assemble_chunk(task, lambda _: outlines, min_area=min_area, fill_holes=fill_holes)


def polygons_from_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact polygons of every label.

    Args:
        labels: (H, W) integers ≥ 0; 0 is background.

    Returns:
        (N,) int64 labels, ascending, and (N,) object array of Polygon or MultiPolygon in px of the array.
    """
    found = vectorize_array(labels)
    return found.label, found.geometry


def polygons_from_mask(mask: np.ndarray, to_level0: Affine2D) -> shapely.Polygon | shapely.MultiPolygon:
    """The exact outline of a mask, in level-0 px; an empty Polygon if nothing is set.

    Args:
        mask: (H, W) bool.
        to_level0: maps px corners of the mask to level-0 px; both scales positive.
    """
    found = vectorize_array(mask != 0)
    if not len(found):
        return shapely.Polygon()
    return shapely.transform(found.geometry[0], to_level0.apply)
