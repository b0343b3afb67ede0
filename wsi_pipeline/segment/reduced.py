"""Many answers at once, each reduced to what belongs to its prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.models.roles import MaskBatch
from wsi_pipeline.segment import components


@dataclass(frozen=True, slots=True)
class ReducedAnswers:
    """N answers without what does not belong to their prompts.

    Attributes:
        logits: (N, h, w) windows, above 0 exactly in the mask.
        masks: (N, h, w) bool.
        origin: (N, 2) the windows' top-left px in the patch.
        boxes: (N, 4) int64 tight bounds of the masks, patch px.
        area: (N,) px of each mask.
        iou, stability: (N,) scores.
    """

    logits: np.ndarray
    masks: np.ndarray
    origin: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    iou: np.ndarray
    stability: np.ndarray


def reduce_answers(
    answers: MaskBatch,
    seeds: np.ndarray | None,
    limits: np.ndarray,
    *,
    parts: str = "every",
    stability_offset: float = components.STABILITY_OFFSET,
) -> ReducedAnswers:
    """Keep the parts of each answer that its prompt asked for.

    Args:
        answers: N windows.
        seeds: (N, h, w) bool, where each prompt is in its window; None keeps every answer whole.
        limits: (N, 4) ``x0, y0, x1, y1`` of the patch that counts, patch px.
        parts: as of ``components.own_parts``.
        stability_offset: as of ``components.stability``.
    """
    logits = components.clear_outside(answers.logits, answers.origin, limits)
    masks = logits > 0 if seeds is None else components.own_parts(logits, seeds, parts=parts)
    own = components.own_logits(logits, masks)
    return ReducedAnswers(
        logits=own,
        masks=masks,
        origin=answers.origin,
        boxes=components.tight_boxes(masks) + np.tile(answers.origin, 2),
        area=np.count_nonzero(masks, axis=(1, 2)),
        iou=answers.iou,
        stability=components.stability(own, stability_offset),
    )
