"""Answers to one prompt at several levels of granularity that turned out to be the same object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wsi_pipeline.segment.found import FoundObject
from wsi_pipeline.segment.suppression import rank, suppress

SAME_OBJECT = 0.95
"""IoU from which on two levels of one click show the same, as Semantic-SAM's demonstration takes it."""


def without_repeats(objects: Sequence[FoundObject], sources: Mapping[str, str]) -> list[FoundObject]:
    """The objects, and of those of one source that are the same the one with the best predicted IoU.

    Args:
        objects: answers, in any order, which is kept.
        sources: id of the source annotation by id of the prompt.
    """
    of_source: dict[str, list[int]] = {}
    for row, found in enumerate(objects):
        of_source.setdefault(sources[found.prompt_id], []).append(row)
    kept: set[int] = set()
    for rows in of_source.values():
        kept.update(rows if len(rows) == 1 else _distinct(objects, rows))
    return [found for row, found in enumerate(objects) if row in kept]


def _distinct(objects: Sequence[FoundObject], rows: Sequence[int]) -> list[int]:
    boxes = np.array([objects[row].bbox for row in rows], np.int64)
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    masks = [
        np.unpackbits(objects[row].bits, count=width * height).reshape(height, width).astype(bool)
        for row, (width, height) in zip(rows, sizes, strict=True)
    ]
    areas = np.array([np.count_nonzero(mask) for mask in masks])
    order = rank(np.array([objects[row].iou for row in rows]), np.full(len(rows), np.nan), boxes, areas)
    keep = suppress(boxes, masks, order, max_iou=SAME_OBJECT, contained=1)
    return [row for row, stays in zip(rows, keep.tolist(), strict=True) if stays]
