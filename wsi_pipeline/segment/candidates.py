"""From a decoder's answers to the objects worth keeping, in px of the patch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.models.roles import MaskBatch
from wsi_pipeline.segment.objects import NOT_REFINED, quantise_logits
from wsi_pipeline.segment.reduced import ReducedAnswers, reduce_answers
from wsi_pipeline.segment.suppression import CONTAINED, rank, suppress
from wsi_pipeline.workflow import SegmentSettings

MIN_INSIDE = 0.5
"""A mask with less of its area than this in its box has spilled into the surroundings: it answers another question."""

MAX_FILL = 0.95
"""A mask filling more than this of all that was decoded has no outline of its own; even a rectangle that fills its
box fills no more than a quarter of the default window."""

LOGIT_BORDER = 0.5
"""Logits are kept this share of an object's size beyond it on every side: the seam of two tiles fades there."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An accepted answer.

    Attributes:
        row: which prompt it answers.
        box: (4,) int64 tight ``x0, y0, x1, y1`` of the mask, patch px.
        mask: (h, w) bool of the box.
        logits: (h', w') int8 quantised logits of the object and some px around it.
        logits_xy: patch px of ``logits``' top-left corner.
        iou, stability: scores of ``ObjectBatch``.
        refined: what the refine stage made of it, see ``ObjectBatch``.
        probabilities: what the recognise stage made of it, see ``FoundObject``.
    """

    row: int
    box: np.ndarray
    mask: np.ndarray
    logits: np.ndarray
    logits_xy: tuple[int, int]
    iou: float
    stability: float
    refined: int = NOT_REFINED
    probabilities: np.ndarray | None = None


def accept(
    answers: MaskBatch,
    seeds: np.ndarray,
    rows: np.ndarray,
    limits: np.ndarray,
    windows: np.ndarray,
    settings: SegmentSettings,
    *,
    boxed: bool,
) -> list[Candidate]:
    """The answers that pass every check, each reduced to the component its prompt asked for.

    Args:
        answers: N windows.
        seeds: (N, h, w) bool, where each prompt is in its window.
        rows: (N,) prompt of each answer.
        limits: (N, 4) ``x0, y0, x1, y1`` of the patch that counts, patch px.
        windows: (N, 4) ``x0, y0, x1, y1`` of the part of the patch that each prompt asks about, patch px.
        settings: thresholds.
        boxed: whether the prompts are boxes, so that spilling beyond them tells.
    """
    found = reduce_answers(answers, seeds, limits, parts="best" if boxed else "every")
    good = (found.area > 0) & (found.iou >= settings.min_iou) & (found.stability >= settings.min_stability)
    good &= found.area <= MAX_FILL * np.prod(windows[:, 2:] - windows[:, :2], axis=1)
    if boxed:
        good &= np.count_nonzero(found.masks & seeds, axis=(1, 2)) >= MIN_INSIDE * found.area
        good &= ~_runs_out(found.boxes, windows, limits)
    return [cut_out(found, i, int(rows[i])) for i in np.flatnonzero(good).tolist()]


def _runs_out(boxes: np.ndarray, windows: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(N,) bool: masks that go on past their window, half a box away from the box, where the patch does not end.

    Their straight edge would be the window's, and what they show is larger than what was asked about.
    """
    low = (boxes[:, :2] <= np.floor(windows[:, :2])) & (windows[:, :2] > limits[:, :2])
    high = (boxes[:, 2:] >= np.ceil(windows[:, 2:])) & (windows[:, 2:] < limits[:, 2:])
    return np.asarray((low | high).any(axis=1))


def cut_out(found: ReducedAnswers, index: int, row: int) -> Candidate:
    """One of the reduced answers as the candidate that answers prompt ``row``."""
    origin = found.origin[index]
    x0, y0, x1, y1 = (int(v) for v in found.boxes[index] - np.tile(origin, 2))
    border = np.ceil(LOGIT_BORDER * np.array([x1 - x0, y1 - y0])).astype(int)
    left, top = max(0, x0 - border[0]), max(0, y0 - border[1])
    return Candidate(
        row=row,
        box=found.boxes[index],
        mask=found.masks[index, y0:y1, x0:x1].copy(),
        logits=quantise_logits(found.logits[index, top : y1 + border[1], left : x1 + border[0]]),
        logits_xy=(int(left + origin[0]), int(top + origin[1])),
        iou=float(found.iou[index]),
        stability=float(found.stability[index]),
    )


def distinct(
    candidates: Sequence[Candidate], scores: np.ndarray, *, max_iou: float, contained: float = CONTAINED
) -> list[Candidate]:
    """The candidates of one tile that no better one covers, in their order.

    Args:
        candidates: N of them.
        scores: the prompter's, of the prompts that the candidates' ``row`` counts.
        max_iou, contained: as of ``suppress``.
    """
    if not candidates:
        return []
    boxes = np.stack([one.box for one in candidates])
    masks = [one.mask for one in candidates]
    iou, areas = np.array([one.iou for one in candidates]), np.array([np.count_nonzero(mask) for mask in masks])
    order = rank(iou, scores[[one.row for one in candidates]], boxes, areas)
    keep = suppress(boxes, masks, order, max_iou=max_iou, contained=contained)
    return [one for one, kept in zip(candidates, keep.tolist(), strict=True) if kept]


def by_position(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same line by line of their top-left corners."""
    return sorted(candidates, key=lambda one: (one.box[1], one.box[0], one.box[3], one.box[2]))


OnTiles = list[tuple[int, list[Candidate]]]
"""Rows of a batch's tiles, ascending, and the objects on each."""


@dataclass(frozen=True, slots=True)
class FoundOnTiles:
    """The objects of a batch.

    Attributes:
        on_tiles: as of ``OnTiles``.
        scores: (N,) how sure it is that there is something, of what the objects' ``row`` counts.
        classes: (N,) int64 their classes, 0 for none; empty where nobody tells classes apart.
    """

    on_tiles: Iterable[tuple[int, list[Candidate]]]
    scores: np.ndarray
    classes: np.ndarray


def best_on_tile(
    candidates: list[Candidate], scores: np.ndarray, max_iou: float, contained: float = CONTAINED
) -> list[Candidate]:
    """The candidates of one tile that no better one covers, by position; arguments as of ``distinct``."""
    return by_position(distinct(candidates, scores, max_iou=max_iou, contained=contained))


def paint_logits(canvas: np.ndarray, candidate: Candidate) -> None:
    """Raise the int8 logits of a patch (S, S) to those of an object wherever the object's are higher."""
    size = canvas.shape[0]
    x, y = candidate.logits_xy
    height, width = candidate.logits.shape
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, size), min(y + height, size)
    target = canvas[top:bottom, left:right]
    np.maximum(target, candidate.logits[top - y : bottom - y, left - x : right - x], out=target)
