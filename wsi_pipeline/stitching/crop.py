"""Parts of packed object masks, without unpacking the rest.

An object may be as large as the slide while a seam or a shard needs a sliver of it, so only the rows that are
asked for are unpacked.
"""

from __future__ import annotations

import numpy as np

from wsi_pipeline.segment.objects import ObjectBatch


def clip_boxes(bbox: np.ndarray, region: tuple[int, int, int, int]) -> np.ndarray:
    """The parts of boxes that lie in a rectangle.

    Args:
        bbox: (N, 4) int ``x0, y0, x1, y1`` (exclusive).
        region: ``x0, y0, x1, y1`` in the same px.

    Returns:
        (N, 4) int64; a box that does not meet the rectangle comes back with ``x1 <= x0`` or ``y1 <= y0``.
    """
    boxes = np.asarray(bbox, np.int64).reshape(-1, 4)
    low = np.maximum(boxes[:, :2], region[:2])
    high = np.minimum(boxes[:, 2:], region[2:])
    return np.hstack([low, high])


def is_solid(boxes: np.ndarray) -> np.ndarray:
    """(N,) bool, which boxes (N, 4) hold at least one pixel."""
    return (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def crop_mask(batch: ObjectBatch, index: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """The (y1 - y0, x1 - x0) bool mask of one object in a rectangle of the grid that lies inside its bounding box."""
    left, top, right, bottom = (int(v) for v in batch.bbox[index])
    if not (left <= x0 <= x1 <= right and top <= y0 <= y1 <= bottom):
        raise ValueError(f"({x0}, {y0}, {x1}, {y1}) is not inside the box ({left}, {top}, {right}, {bottom})")
    width = right - left
    first, last = (y0 - top) * width, (y1 - top) * width
    start = int(batch.offset[index])
    packed = batch.bits[start + first // 8 : start + -(-last // 8)]
    bits = np.unpackbits(packed)[first % 8 : first % 8 + last - first]
    return bits.reshape(y1 - y0, width)[:, x0 - left : x1 - left].view(bool)
