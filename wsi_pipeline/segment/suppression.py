"""Of objects that cover one another the best stays; the outcome does not depend on the order they come in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

CONTAINED = 0.8
"""Share of the smaller of two objects beyond which it counts as a part of the larger one: a fragment of one object
stays far below the IoU limit against the whole, yet a label image can show only one of the two."""


def suppress(
    boxes: np.ndarray, masks: Sequence[np.ndarray], order: np.ndarray, *, max_iou: float, contained: float = CONTAINED
) -> np.ndarray:
    """Greedy non-maximum suppression on exact masks.

    Args:
        boxes: (N, 4) int ``x0, y0, x1, y1`` (exclusive), px of any common raster.
        masks: N (h, w) bool masks, each of the size of its box.
        order: (N,) indices, best first, e.g. of ``rank``.
        max_iou: of two objects with a greater IoU the better one stays; 1 keeps everything.
        contained: the same for the intersection over the smaller area; never stricter than ``max_iou``.

    Returns:
        (N,) bool, which objects stay.
    """
    pairs = conflicts(boxes, masks, max_iou=max_iou, contained=max(contained, max_iou))
    rivals: list[list[int]] = [[] for _ in range(len(boxes))]
    for first, second in pairs.tolist():
        rivals[first].append(second)
        rivals[second].append(first)
    keep = np.zeros(len(boxes), bool)
    for index in order.tolist():
        keep[index] = not keep[rivals[index]].any()
    return keep


def rank(iou: np.ndarray, detection: np.ndarray, boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Indices (N,) best first: predicted IoU, then detection score, then area, then position.

    Args:
        iou: (N,) predicted IoU.
        detection: (N,) prompter's score; NaN ranks last.
        boxes: (N, 4) int ``x0, y0, x1, y1``.
        areas: (N,) px.
    """
    detection = np.nan_to_num(np.asarray(detection, np.float64), nan=-1.0)
    x0, y0, x1, y1 = boxes.reshape(-1, 4).T
    return np.lexsort((x1, y1, x0, y0, -np.asarray(areas, np.int64), -detection, -np.asarray(iou, np.float64)))


def conflicts(boxes: np.ndarray, masks: Sequence[np.ndarray], *, max_iou: float, contained: float) -> np.ndarray:
    """Pairs (P, 2) of objects with an IoU above ``max_iou`` or covering more than ``contained`` of the smaller."""
    areas = np.array([np.count_nonzero(mask) for mask in masks], np.int64)
    pairs = _touching_boxes(boxes)
    if len(pairs) == 0:
        return pairs
    # the boxes bound the intersection from above, which settles most pairs without looking at a pixel
    shared = np.prod(
        np.minimum(boxes[pairs[:, 0], 2:], boxes[pairs[:, 1], 2:])
        - np.maximum(boxes[pairs[:, 0], :2], boxes[pairs[:, 1], :2]),
        axis=1,
        dtype=np.int64,
    )
    smaller, total = areas[pairs].min(axis=1), areas[pairs].sum(axis=1)

    def conflicting(intersection: np.ndarray) -> np.ndarray:
        bounded = np.minimum(intersection, smaller)
        return (bounded > max_iou * (total - bounded)) | (bounded > contained * smaller)

    possible = conflicting(shared)
    pairs, smaller, total = pairs[possible], smaller[possible], total[possible]
    exact = [_intersection(boxes[i], masks[i], boxes[j], masks[j]) for i, j in pairs.tolist()]
    return pairs[conflicting(np.array(exact, np.int64))]


def _touching_boxes(boxes: np.ndarray) -> np.ndarray:
    """Pairs (P, 2), first < second, of boxes that share at least a pixel."""
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    # shrunk by a quarter of a pixel on every side so that boxes which only share an edge do not meet
    shrunk = shapely.box(x0 + 0.25, y0 + 0.25, x1 - 0.25, y1 - 0.25)
    first, second = shapely.STRtree(shrunk).query(shrunk)
    pairs = np.stack([first, second], axis=1)[first < second]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _intersection(box_a: np.ndarray, mask_a: np.ndarray, box_b: np.ndarray, mask_b: np.ndarray) -> int:
    x0, y0 = np.maximum(box_a[:2], box_b[:2])
    x1, y1 = np.minimum(box_a[2:], box_b[2:])
    part_a = mask_a[y0 - box_a[1] : y1 - box_a[1], x0 - box_a[0] : x1 - box_a[0]]
    part_b = mask_b[y0 - box_b[1] : y1 - box_b[1], x0 - box_b[0] : x1 - box_b[0]]
    return int(np.count_nonzero(part_a & part_b))
