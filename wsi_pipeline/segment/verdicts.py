"""Prompted mode: what an answer is worth, and whether it was cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.models.roles import MaskBatch
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.segment import components
from wsi_pipeline.segment.candidates import MAX_FILL, MIN_INSIDE
from wsi_pipeline.segment.decoding import window_bounds
from wsi_pipeline.segment.found import FoundObject
from wsi_pipeline.segment.objects import NOT_REFINED
from wsi_pipeline.segment.onto_grid import logits_onto_grid
from wsi_pipeline.segment.placement import PairKey, Placement
from wsi_pipeline.segment.questions import Question, batch
from wsi_pipeline.segment.recognise import PatchMask
from wsi_pipeline.segment.reduced import ReducedAnswers, reduce_answers
from wsi_pipeline.workflow import SegmentSettings


@dataclass(frozen=True, slots=True)
class Asked:
    """A question on its pair.

    Attributes:
        index: place of the prompt in its task.
        prompt: as the person gave it.
        question: the same in px of the pair's high patch.
        key: the pair.
        image: row of the pair among the encoded ones.
    """

    index: int
    prompt: Prompt
    question: Question
    key: PairKey
    image: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A mask on its patch.

    Attributes:
        logits: (h, w) float32, above 0 exactly in the mask, with a px of background wherever it ends.
        xy: patch px of their top-left corner.
        box: (4,) tight bounds of the mask, patch px.
        iou, stability: scores of ``ObjectBatch``.
    """

    logits: np.ndarray
    xy: tuple[int, int]
    box: np.ndarray
    iou: float
    stability: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer is worth.

    Attributes:
        drawn: the mask, or None where the answer cannot be used.
        reason: why it cannot.
        cut: whether the object goes on beyond the patch.
    """

    drawn: Drawn | None = None
    reason: str = ""
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one prompt on one pair.

    Attributes:
        found: the object, of no class yet, or None where the answer cannot be used.
        reason: why it cannot.
        cut: whether the object goes on beyond the patch.
        mask: the object on its patch; None where it is the prompt's own outline.
    """

    found: FoundObject | None = None
    reason: str = ""
    cut: bool = False
    mask: PatchMask | None = None

    def done(self, probabilities: np.ndarray | None = None) -> Verdict:
        """The same without the mask on the patch, and with the (C,) probabilities of the object's classes."""
        found = None if self.found is None else replace(self.found, probabilities=probabilities)
        return Verdict(found, self.reason, self.cut)


def judge(
    asked: Sequence[Asked], answers: MaskBatch, placement: Placement, settings: SegmentSettings, margin: float | None
) -> list[Judgement | None]:
    """What N answers are worth, to prompts of one kind; None where the window, not the patch, cuts the object.

    Args:
        asked: the N questions.
        answers: their windows.
        placement: where the pairs lie.
        settings: thresholds.
        margin: as the decoder was given it; None for whole patches.
    """
    reduced, inside = _reduce(asked, answers, placement)
    windowed = _cut_by_window(reduced, asked, placement.input_size, margin)
    return [
        None if windowed[row] else _judge(one, reduced, row, int(inside[row]), placement, settings)
        for row, one in enumerate(asked)
    ]


def whole_patches(count: int, size: int) -> np.ndarray:
    """(count, 4) int64 limits that leave patches of ``size`` px whole."""
    return np.tile(np.array([0, 0, size, size]), (count, 1))


def _reduce(asked: Sequence[Asked], answers: MaskBatch, placement: Placement) -> tuple[ReducedAnswers, np.ndarray]:
    """Answers without what does not belong to their prompts, and how many px (N,) of each lie in its prompt's box."""
    pointed = asked[0].prompt.kind == "point"
    boxed = None if pointed else _box_seeds(asked, answers, placement)
    if boxed is None:
        seeds = _point_seeds(asked, answers)
    elif asked[0].prompt.kind == "mask":
        seeds = _outline_seeds(asked, answers, placement, boxed)
    else:
        seeds = boxed
    limits = whole_patches(len(asked), placement.input_size)
    found = reduce_answers(answers, seeds, limits, parts="every" if pointed else "large")
    return found, found.area if boxed is None else np.count_nonzero(found.masks & boxed, axis=(1, 2))


def _point_seeds(asked: Sequence[Asked], answers: MaskBatch) -> np.ndarray:
    prompts = batch([one.question for one in asked], np.zeros(len(asked)))
    assert prompts.points is not None
    assert prompts.point_labels is not None
    return components.point_seeds(answers.logits, answers.origin, prompts.points, prompts.point_labels == 1)


def _box_seeds(asked: Sequence[Asked], answers: MaskBatch, placement: Placement) -> np.ndarray:
    boxes = [placement.to_patch(one.key).apply(np.reshape(one.prompt.box, (2, 2))).reshape(4) for one in asked]
    return components.box_seeds(answers.logits, answers.origin, np.stack(boxes))


def _outline_seeds(asked: Sequence[Asked], answers: MaskBatch, placement: Placement, boxed: np.ndarray) -> np.ndarray:
    """Px in each outline, or in its box where the outline is too thin to hold any."""
    seeds = np.empty_like(boxed)
    for row, one in enumerate(asked):
        x, y = (float(v) for v in answers.origin[row])
        to_window = Affine2D(tx=-x, ty=-y).after(placement.to_patch(one.key))
        seed = rasterise(one.prompt.geometry, to_window, boxed.shape[2], boxed.shape[1])
        seeds[row] = seed if seed.any() else boxed[row]
    return seeds


def _cut_by_window(reduced: ReducedAnswers, asked: Sequence[Asked], size: int, margin: float | None) -> np.ndarray:
    """Which masks (N,) end at a border of what was decoded that is not a border of the patch."""
    if margin is None:
        return np.zeros(len(asked), bool)
    windows = window_bounds(np.stack([one.question.box for one in asked if one.question.box is not None]), size, margin)
    corner, extent = reduced.origin, np.array(reduced.masks.shape[:0:-1])
    # what was decoded ends at the nominal window, whatever rounding, or where the array does
    low = np.maximum(np.floor(windows[:, :2]) + 1, corner)
    high = np.minimum(np.ceil(windows[:, 2:]) - 1, corner + extent)
    ends_low = (reduced.boxes[:, :2] <= low) & (low > 1)
    ends_high = (reduced.boxes[:, 2:] >= high) & (high < size - 1)
    return (ends_low | ends_high).any(axis=1) & reduced.masks.any(axis=(1, 2))


def _judge(
    asked: Asked, reduced: ReducedAnswers, row: int, inside: int, placement: Placement, settings: SegmentSettings
) -> Judgement:
    if not reduced.area[row]:
        return Judgement(reason="the model found nothing there")
    cut = cut_by_patch(reduced.boxes[row], asked.key, placement)
    reason = _objection(reduced, row, inside, placement, settings)
    return Judgement(reason=reason, cut=cut) if reason else Judgement(drawn_of(reduced, row), cut=cut)


def drawn_of(reduced: ReducedAnswers, row: int) -> Drawn:
    """One of the reduced answers by itself."""
    left, top, right, bottom = _with_border(reduced.masks[row], reduced.boxes[row] - np.tile(reduced.origin[row], 2))
    x, y = (int(v) for v in reduced.origin[row])
    logits = reduced.logits[row, top:bottom, left:right]
    scores = float(reduced.iou[row]), float(reduced.stability[row])
    return Drawn(logits, (x + left, y + top), reduced.boxes[row], *scores)


def settled(judgement: Judgement, key: PairKey, placement: Placement, *, refined: int = NOT_REFINED) -> Verdict:
    """A judgement on a pair as a verdict on the working grid; ``refined`` is as of ``ObjectBatch``."""
    drawn = judgement.drawn
    if drawn is None:
        return Verdict(reason=judgement.reason, cut=judgement.cut)
    packed = logits_onto_grid(drawn.logits, placement.to_grid(key).shifted(*drawn.xy), placement.grid)
    if packed is None:
        return Verdict(reason="the answer is smaller than a pixel of the working resolution, or outside the region")
    found = FoundObject(*packed, 0, drawn.iou, drawn.stability, refined=refined)
    return Verdict(found, cut=judgement.cut, mask=(drawn.xy, drawn.logits > 0))


def _objection(reduced: ReducedAnswers, row: int, inside: int, placement: Placement, settings: SegmentSettings) -> str:
    """Why an answer cannot be used, or nothing."""
    iou, stability = float(reduced.iou[row]), float(reduced.stability[row])
    if not iou >= settings.min_iou:
        return f"predicted IoU {iou:.2f} is below segment.min_iou {settings.min_iou:g}"
    if not stability >= settings.min_stability:
        return f"stability {stability:.2f} is below segment.min_stability {settings.min_stability:g}"
    area = int(reduced.area[row])
    if area > MAX_FILL * placement.input_size**2:
        return "the answer fills the whole patch"
    if inside < MIN_INSIDE * area:
        return "most of the answer lies outside the prompt"
    return ""


def cut_by_patch(box: np.ndarray, key: PairKey, placement: Placement) -> bool:
    """Whether a mask ends at a border of its patch beyond which the working grid goes on."""
    size, grid = placement.input_size, placement.grid
    x0, y0, x1, y1 = placement.to_grid(key).apply(np.array([[0, 0], [size, size]])).reshape(4)
    return bool(
        (box[0] <= 0 and x0 > 0)
        or (box[1] <= 0 and y0 > 0)
        or (box[2] >= size and x1 < grid.width)
        or (box[3] >= size and y1 < grid.height)
    )


def _with_border(mask: np.ndarray, box: np.ndarray) -> tuple[int, int, int, int]:
    """A mask's bounds with a px more on every side, within its window."""
    x0, y0, x1, y1 = (int(v) for v in box)
    return max(x0 - 1, 0), max(y0 - 1, 0), min(x1 + 1, mask.shape[1]), min(y1 + 1, mask.shape[0])
