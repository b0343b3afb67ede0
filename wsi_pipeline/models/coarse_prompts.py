"""A coarse mask as prompts: the box around it, points on its middle line, and the mask itself."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.models.roles import PromptBatch


def prompts_of_masks(
    coarse: np.ndarray, image_index: np.ndarray, kinds: frozenset[str], *, px: float, points: int
) -> PromptBatch:
    """Ask about N masks with everything a model takes of them.

    Args:
        coarse: (N, M, M) float32 logits over the whole high patch; inside above 0, and somewhere inside.
        image_index: (N,) the pair of each.
        kinds: what the model takes, of ``box``, ``point`` and ``mask``.
        px: patch px per mask px.
        points: points wanted on each middle line, at most.
    """
    inside = coarse > 0
    on_line = labels = None
    if "point" in kinds and (points or "box" not in kinds):
        on_line, labels = middle_points(inside, max(points, 1))
        on_line *= np.float32(px)
    return PromptBatch(
        np.asarray(image_index, np.int64),
        boxes=bounding_boxes(inside) * np.float32(px) if "box" in kinds else None,
        points=on_line,
        point_labels=labels,
        masks=coarse.astype(np.float32) if "mask" in kinds else None,
    )


def bounding_boxes(masks: np.ndarray) -> np.ndarray:
    """(N, 4) float32 x0, y0, x1, y1 at px corners of masks (N, H, W) bool; the whole map for an empty mask."""
    n, height, width = masks.shape
    boxes = np.empty((n, 4), np.float32)
    for axis, (first, last, length) in {1: (0, 2, width), 2: (1, 3, height)}.items():
        hit = np.asarray(masks.any(axis=axis))
        empty = ~hit.any(axis=1)
        boxes[:, first] = np.where(empty, 0, hit.argmax(axis=1))
        boxes[:, last] = np.where(empty, length, length - hit[:, ::-1].argmax(axis=1))
    return boxes


def middle_points(masks: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on the middle line of each mask: the deepest one, then each as far from the others as can be.

    Args:
        masks: (N, H, W) bool.
        count: points wanted.

    Returns:
        (N, count, 2) float32 (x, y) at px centres, and (N, count) int64 labels: 1, or -1 where a middle line is
        too short to hold so many.
    """
    xy = np.zeros((len(masks), count, 2), np.float32)
    labels = np.full((len(masks), count), -1, np.int64)
    for row, (mask, box) in enumerate(zip(masks, bounding_boxes(masks).astype(int), strict=True)):
        found = _middle_points(mask[box[1] : box[3], box[0] : box[2]], count)
        xy[row, : len(found)] = found + box[:2] + np.float32(0.5)
        labels[row, : len(found)] = 1
    return xy, labels


def _middle_points(mask: np.ndarray, count: int) -> np.ndarray:
    """(n, 2) int (x, y) of at most ``count`` px of one mask."""
    from skimage.morphology import medial_axis

    # with a border, or the edge of the crop would not count as the mask's
    line, depth = (part[1:-1, 1:-1] for part in medial_axis(np.pad(mask, 1), return_distance=True, rng=0))
    y, x = np.nonzero(line)
    if not len(x):
        return np.zeros((0, 2), np.int64)
    middle = np.stack([x, y], axis=1)
    chosen = [int(depth[y, x].argmax())]
    distance = np.full(len(middle), np.inf)
    while len(chosen) < min(count, len(middle)):
        distance = np.minimum(distance, np.square(middle - middle[chosen[-1]]).sum(axis=1))
        chosen.append(int(distance.argmax()))
    return middle[chosen]
