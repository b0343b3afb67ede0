"""Objects while they are being found, and how they become the batch that is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.segment.objects import NOT_REFINED, ObjectBatch

Bounds = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One row of ``ObjectBatch``, with the same meaning of every field.

    Attributes:
        bbox: ``x0, y0, x1, y1`` (exclusive), px of the working grid.
        bits: uint8, the packed mask of the box.
        seam: ``SEAM_*`` sides of its tile that cut it.
        probabilities: (C,) float32, or None where nobody recognised it.
    """

    bbox: Bounds
    bits: np.ndarray
    class_id: int
    iou: float
    stability: float
    detection: float = float("nan")
    tile: int = -1
    seam: int = 0
    refined: int = NOT_REFINED
    prompt_id: str = ""
    probabilities: np.ndarray | None = None


def collect(
    objects: Sequence[FoundObject], logits: np.ndarray, logits_xy: np.ndarray, *, n_classes: int = 0
) -> ObjectBatch:
    """Objects, in their order, as one batch.

    Args:
        objects: N of them.
        logits: (T, S, S) int8 tile logits.
        logits_xy: (T, 2) grid px of their corners.
        n_classes: C, classes that a recogniser told apart.
    """
    unseen = np.full(n_classes, np.nan, np.float32)
    probabilities = [unseen if found.probabilities is None else found.probabilities for found in objects]
    offset = np.zeros(len(objects) + 1, np.int64)
    np.cumsum([len(found.bits) for found in objects], out=offset[1:])
    return ObjectBatch(
        bbox=np.array([found.bbox for found in objects], np.int32).reshape(-1, 4),
        bits=np.concatenate([found.bits for found in objects]) if objects else np.zeros(0, np.uint8),
        offset=offset,
        class_id=np.array([found.class_id for found in objects], np.int16),
        iou=np.array([found.iou for found in objects], np.float32),
        stability=np.array([found.stability for found in objects], np.float32),
        detection=np.array([found.detection for found in objects], np.float32),
        tile=np.array([found.tile for found in objects], np.int32),
        seam=np.array([found.seam for found in objects], np.uint8),
        refined=np.array([found.refined for found in objects], np.uint8),
        prompt_id=np.array([found.prompt_id for found in objects], np.str_),
        probabilities=np.array(probabilities, np.float32).reshape(len(objects), n_classes),
        logits=logits,
        logits_xy=logits_xy.astype(np.int32).reshape(-1, 2),
    )
