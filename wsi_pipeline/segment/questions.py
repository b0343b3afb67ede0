"""A person's prompt as what a segmenter can be asked, in px of a patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.models.roles import PromptBatch, Segmenter
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.rasterise import coverage

COARSE_LOGIT = 6.0
"""Logit of a px that an outline covers whole; models take their own earlier logits as masks, and those saturate at
about this size: sure, without forbidding an answer that departs from the outline."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt in px of its high patch.

    Attributes:
        box: (4,) float32 ``x0, y0, x1, y1``, or None.
        points: (K, 2) float32 (x, y).
        labels: (K,) int64, 1 inside, 0 outside.
        mask: (M, M) float32 coarse mask logits over the patch, or None.
        level: the granularity that is asked for, or None.
        class_name: of the prompt; empty where it has none.
    """

    box: np.ndarray | None
    points: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None
    level: int | None = None
    class_name: str = ""

    @property
    def make_up(self) -> tuple[bool, bool, bool]:
        """Whether it has a box, points and a mask; only questions of one make-up go into one batch."""
        return self.box is not None, len(self.points) > 0, self.mask is not None


def pose(prompt: Prompt, to_patch: Affine2D, segmenter: Segmenter, *, use_outline: bool) -> Question | None:
    """What to ask about a prompt, or None where the model cannot be asked anything about it.

    An outline is asked about with its box, itself and its points, as far as the model takes them; an object with a
    box is asked about by a point inside it when the model takes points only.

    Args:
        prompt: in level-0 px.
        to_patch: from level-0 px to px of the high patch.
        segmenter: whose ``prompt_kinds`` and sizes count.
        use_outline: whether outlines are mask prompts.
    """
    kinds, size = segmenter.prompt_kinds, segmenter.input_size
    box = mask = None
    if prompt.kind != "point" and "box" in kinds:
        box = to_patch.apply(np.reshape(prompt.box, (2, 2))).reshape(4).astype(np.float32)
    if prompt.kind == "mask" and use_outline and "mask" in kinds:
        shrink = segmenter.mask_size / size
        to_mask = Affine2D(shrink, shrink).after(to_patch)
        mask = (2 * coverage(prompt.geometry, to_mask, segmenter.mask_size) - 1) * np.float32(COARSE_LOGIT)
    points, labels = _points(prompt, to_patch, size) if "point" in kinds else _NO_POINTS
    if box is None and mask is None and not (labels == 1).any():
        if prompt.kind == "point" or "point" not in kinds:
            return None
        inside = prompt.geometry.representative_point()
        points = np.concatenate([to_patch.apply(np.array([[inside.x, inside.y]])).astype(np.float32), points])
        labels = np.concatenate([[1], labels])
    return Question(box, points, labels, mask, prompt.level, prompt.class_name or "")


_NO_POINTS = (np.zeros((0, 2), np.float32), np.zeros(0, np.int64))


def _points(prompt: Prompt, to_patch: Affine2D, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The prompt's points on the patch, positive ones first; the model knows nothing of what lies beyond."""
    points = to_patch.apply(np.concatenate([prompt.positive, prompt.negative]).reshape(-1, 2))
    labels = np.repeat(np.array([1, 0], np.int64), [len(prompt.positive), len(prompt.negative)])
    seen = ((points >= 0) & (points <= size)).all(axis=1)
    return points[seen].astype(np.float32), labels[seen]


def batch(questions: Sequence[Question], image_index: np.ndarray) -> PromptBatch:
    """Questions of one make-up as one batch; rows with fewer points than others are padded."""
    has_box, has_points, has_mask = questions[0].make_up
    points = labels = None
    levels = [question.level for question in questions]  # of all or of none: one section asks them
    if has_points:
        longest = max(len(question.labels) for question in questions)
        points = np.zeros((len(questions), longest, 2), np.float32)
        labels = np.full((len(questions), longest), -1, np.int64)
        for row, question in enumerate(questions):
            points[row, : len(question.labels)] = question.points
            labels[row, : len(question.labels)] = question.labels
    return PromptBatch(
        image_index=np.asarray(image_index, np.int64),
        boxes=np.stack([question.box for question in questions if question.box is not None]) if has_box else None,
        points=points,
        point_labels=labels,
        masks=np.stack([question.mask for question in questions if question.mask is not None]) if has_mask else None,
        levels=None if levels[0] is None else np.array(levels, np.int64),
        classes=np.array([question.class_name for question in questions]),
    )
