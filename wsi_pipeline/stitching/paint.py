"""Objects → label image, one rectangle at a time.

Where objects overlap, the one with the higher predicted IoU is seen (the lower id where they are equal), and of nested
objects the smaller one. That is decided by the objects alone, so it does not matter how the grid is cut into rectangles
or who paints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from wsi_pipeline.segment.objects import ObjectBatch
from wsi_pipeline.stitching.crop import clip_boxes, crop_mask, is_solid


def paint(
    region: tuple[int, int, int, int],
    batches: Sequence[ObjectBatch],
    ids: Sequence[np.ndarray],
    root: np.ndarray,
    class_ids: np.ndarray,
    *,
    nested: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint the objects that meet a rectangle of the working grid.

    Args:
        region: ``x0, y0, x1, y1`` (exclusive), px of the working grid.
        batches: every batch with an object in the rectangle; more do no harm, their order does not matter.
        ids: (N,) int64 global ids of the objects of each of these batches, see ``stitching.ids``.
        root: (n + 1,) uint32 of ``seams.resolve``: the final id of each object, 0 where it was dropped.
        class_ids: (n + 1,) int, the class of each object by global id. A merged object has the class of its root,
            whose batch need not be among these.
        nested: whether the smallest object is seen, so that none hides its parts.

    Returns:
        instance: (h, w) uint32, the final id of the object seen in each pixel, 0 for none.
        class_: (h, w) uint16, the class of that object, 0 for none or unclassified.
    """
    x0, y0, x1, y1 = region
    instance = np.zeros((y1 - y0, x1 - x0), np.uint32)
    class_ = np.zeros_like(instance, np.uint16)
    for batch, index, box, final_id in _bottom_up(region, batches, ids, root, nested):
        left, top, right, bottom = box
        place = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
        mask = crop_mask(batch, index, *box)
        instance[place][mask] = final_id
        class_[place][mask] = class_ids[final_id]
    return instance, class_


def _bottom_up(
    region: tuple[int, int, int, int],
    batches: Sequence[ObjectBatch],
    ids: Sequence[np.ndarray],
    root: np.ndarray,
    nested: bool,
) -> Iterator[tuple[ObjectBatch, int, tuple[int, int, int, int], int]]:
    """(batch, index, box inside the region, final id) of every object to paint, the one that is to be seen last."""
    rows: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    worth: list[np.ndarray] = []
    for number, (batch, object_ids) in enumerate(zip(batches, ids, strict=True)):
        box = clip_boxes(batch.bbox, region)
        index = np.flatnonzero(is_solid(box) & (root[object_ids] != 0))
        rows.append(np.column_stack([np.full_like(index, number), index, object_ids[index]]))
        boxes.append(box[index])
        worth.append(-batch.areas(index) if nested else np.nan_to_num(batch.iou[index].astype(np.float32), nan=-1.0))
    if not rows:
        return
    row, box = np.concatenate(rows), np.concatenate(boxes)
    for k in np.lexsort((-row[:, 2], np.concatenate(worth))):
        which, i, object_id = (int(v) for v in row[k])
        left, top, right, bottom = (int(v) for v in box[k])
        yield batches[which], i, (left, top, right, bottom), int(root[object_id])
