"""Asking a segmenter many questions in calls whose answers fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch, Segmenter

ANSWER_PX = 2**24
"""Most window px of one decoder call: 64 MB of logits, and a few times that while they are looked at."""


def decode_in_calls(
    segmenter: Segmenter, embedding: Any, prompts: PromptBatch, *, margin: float | None
) -> Iterator[tuple[np.ndarray, MaskBatch]]:
    """Answer N prompts in one call where the answers fit in ``ANSWER_PX``, else in calls of windows of like size.

    The windows of one call share the size of the largest, so a single large box among a thousand small ones would
    otherwise make a thousand large windows.

    Yields:
        rows (n,) of ``prompts`` and their answers; every row once.
    """
    for rows in calls_that_fit(window_sides(prompts, segmenter.input_size, margin)):
        yield rows, segmenter.decode(embedding, take(prompts, rows), margin=margin)


def calls_that_fit(sides: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of windows with sides (N,) px, cut into calls: all at once if they fit, else those of like size together."""
    if len(sides) and len(sides) * int(sides.max()) ** 2 <= ANSWER_PX:
        yield np.arange(len(sides))
        return
    size_class = np.ceil(np.log2(sides))
    for size in np.unique(size_class):
        rows = np.flatnonzero(size_class == size)
        step = max(1, int(ANSWER_PX // sides[rows].max() ** 2))
        for start in range(0, len(rows), step):
            yield rows[start : start + step]


def window_sides(prompts: PromptBatch, size: int, margin: float | None) -> np.ndarray:
    """About how long the longer side of each prompt's window (N,) is, px of a patch of ``size`` px."""
    if prompts.boxes is None or margin is None:
        return np.full(len(prompts), float(size))
    longest = (prompts.boxes[:, 2:] - prompts.boxes[:, :2]).max(axis=1).astype(np.float64)
    return np.clip(longest * (1 + 2 * margin), 1, size)


def window_bounds(boxes: np.ndarray, size: int, margin: float) -> np.ndarray:
    """Boxes (N, 4) grown by ``margin`` of their size on every side, within a patch of ``size`` px; float64."""
    boxes = np.asarray(boxes, np.float64)
    grow = margin * (boxes[:, 2:] - boxes[:, :2])
    return np.clip(np.concatenate([boxes[:, :2] - grow, boxes[:, 2:] + grow], axis=1), 0, size)


def take(prompts: PromptBatch, rows: np.ndarray) -> PromptBatch:
    """Some of the prompts."""

    def pick(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[rows]

    return PromptBatch(
        prompts.image_index[rows],
        pick(prompts.boxes),
        pick(prompts.points),
        pick(prompts.point_labels),
        pick(prompts.masks),
        pick(prompts.levels),
        pick(prompts.classes),
    )


def select(images: PairImages, rows: np.ndarray) -> PairImages:
    """Some of the pairs."""
    if len(rows) == len(images):
        return images
    low = None if images.low is None else images.low[rows]
    return PairImages(images.high[rows], low, images.context_factor)
