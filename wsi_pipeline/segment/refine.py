"""Coarse masks drawn again by a refiner, and kept where the new mask is another object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsi_pipeline.models.roles import MaskBatch, PairImages, Recogniser, Refiner
from wsi_pipeline.segment.candidates import Candidate, cut_out
from wsi_pipeline.segment.components import BACKGROUND
from wsi_pipeline.segment.decoding import calls_that_fit
from wsi_pipeline.segment.objects import KEPT_COARSE, REFINED
from wsi_pipeline.segment.onto_grid import enlarged
from wsi_pipeline.segment.questions import COARSE_LOGIT
from wsi_pipeline.segment.reduced import ReducedAnswers, reduce_answers
from wsi_pipeline.tiling.plan import PatchPair
from wsi_pipeline.tiling.read import GridReader, read_pairs
from wsi_pipeline.workflow import RefineSettings


@dataclass(frozen=True, slots=True)
class RefineStage:
    """A workflow's refine section and the model it names."""

    refiner: Refiner
    settings: RefineSettings


@dataclass(frozen=True, slots=True)
class CoarseMask:
    """A mask on a patch.

    Attributes:
        image: number of its pair within the embedding.
        xy: patch px of its top-left corner.
        mask: (h, w) bool; parts of it may lie outside the patch.
    """

    image: int
    xy: tuple[int, int]
    mask: np.ndarray


@dataclass(frozen=True, slots=True)
class Sharpened:
    """What a refiner made of n of the masks.

    Attributes:
        rows: (n,) which masks.
        found: the new ones.
        accepted: (n,) bool, those that agree with the coarse mask; the others are to stay as they are.
    """

    rows: np.ndarray
    found: ReducedAnswers
    accepted: np.ndarray


def sharpen(
    stage: RefineStage, embedding: Any, masks: Sequence[CoarseMask], limits: np.ndarray, size: int
) -> Iterator[Sharpened]:
    """Draw masks again, in calls whose answers fit in memory.

    Args:
        stage: who draws, and how it is asked.
        embedding: of the pairs the masks lie on, by its refiner's ``encode``.
        masks: N of them.
        limits: (N, 4) ``x0, y0, x1, y1`` of the patch that counts, patch px.
        size: side of the patches that masks and limits are in px of. The refiner may see the same field in patches of
            another size.

    Yields:
        Answers to some of the masks, in the same px; every mask once.
    """
    refiner, settings = stage.refiner, stage.settings
    scale = refiner.input_size / size
    sides = np.array([max(one.mask.shape) for one in masks], np.float64)
    if settings.window_margin is None:
        sides[:] = size
    else:
        sides = np.clip(sides * (1 + 2 * settings.window_margin), 1, size)
    for rows in calls_that_fit(np.maximum(sides * max(scale, 1), refiner.mask_size)):
        coarse = np.stack([_coarse_logits(masks[row], size, refiner.mask_size) for row in rows])
        images = np.array([masks[row].image for row in rows], np.int64)
        answers = refiner.refine(embedding, coarse, images, margin=settings.window_margin, points=settings.points)
        answers = _at_scale(answers, scale)
        shape = answers.logits.shape[1:]
        before = np.stack([_in_window(masks[row], xy, shape) for row, xy in zip(rows, answers.origin, strict=True)])
        found = reduce_answers(answers, before, limits[rows], parts="large")
        area = np.array([np.count_nonzero(masks[row].mask) for row in rows])
        yield Sharpened(rows, found, _agreement(found, before, area) >= max(settings.min_agreement, 1e-9))


def encode_again(model: Refiner | Recogniser, slide: GridReader, pairs: Sequence[PatchPair], images: PairImages) -> Any:
    """B pairs, of which ``images`` were read, embedded by another model; read anew where it takes another size."""
    size = model.input_size
    if size is not None and size != images.high.shape[1]:
        images = read_pairs(slide, [pair.resized(size) for pair in pairs], low=model.uses_low_patch)
    return model.encode(images)


def _at_scale(answers: MaskBatch, scale: float) -> MaskBatch:
    """Answers of a patch with ``scale`` px for every px wanted, in the px that are wanted.

    Windows start and end at cells of the embedding, which are whole px at every size there is.
    """
    if scale == 1:
        return answers
    if scale > 1:
        px = round(scale)
        n, height, width = answers.logits.shape
        # one px of certain background must not outvote its neighbours
        sure = np.clip(answers.logits, BACKGROUND, -BACKGROUND)
        blocks = sure.reshape(n, height // px, px, width // px, px)
        return MaskBatch(blocks.mean(axis=(2, 4)), answers.origin // px, answers.iou)
    px = round(1 / scale)
    logits = np.stack([enlarged(logits, px) for logits in answers.logits])
    return MaskBatch(logits, answers.origin * px, answers.iou)


def _coarse_logits(one: CoarseMask, size: int, mask_size: int) -> np.ndarray:
    """(M, M) float32 logits of a mask over the whole patch: how much of each px it covers."""
    patch = _in_window(one, np.zeros(2, np.int64), (size, size))
    px = size // mask_size
    covered = patch.reshape(mask_size, px, mask_size, px).mean(axis=(1, 3), dtype=np.float32)
    if not (covered > 0.5).any():  # a mask thinner than a px is still somewhere
        covered = np.where(covered > 0, np.float32(1), np.float32(0))
    return (2 * covered - 1) * np.float32(COARSE_LOGIT)


def _in_window(one: CoarseMask, origin: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask in a window of ``shape`` whose top-left px is ``origin``; bool."""
    window = np.zeros(shape, bool)
    x, y = one.xy[0] - int(origin[0]), one.xy[1] - int(origin[1])
    height, width = one.mask.shape
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, shape[1]), min(y + height, shape[0])
    if right > left and bottom > top:
        window[top:bottom, left:right] = one.mask[top - y : bottom - y, left - x : right - x]
    return window


def _agreement(found: ReducedAnswers, before: np.ndarray, area: np.ndarray) -> np.ndarray:
    """(n,) IoU of the new masks with the coarse ones, of ``area`` px and in the window at ``before``."""
    common = np.count_nonzero(found.masks & before, axis=(1, 2))
    return np.asarray(common / np.maximum(found.area + area - common, 1))


def refine_candidates(
    stage: RefineStage,
    embedding: Any,
    candidates: Sequence[Candidate],
    images: np.ndarray,
    limits: np.ndarray,
    size: int,
) -> list[Candidate]:
    """Candidates with their new masks, in the same order; those the guard holds back with their own.

    Args:
        stage: who draws.
        embedding: of the pairs they lie on, by ``stage.refiner``.
        candidates: N of them.
        images: (N,) pair of each within the embedding.
        limits: (N, 4) ``x0, y0, x1, y1`` of the patch that counts, patch px.
        size: side of the patches that candidates and limits are in px of.
    """
    masks = [
        CoarseMask(int(image), (int(one.box[0]), int(one.box[1])), one.mask)
        for image, one in zip(images, candidates, strict=True)
    ]
    refined: dict[int, Candidate] = {}
    for part in sharpen(stage, embedding, masks, limits, size):
        for index, (row, accepted) in enumerate(zip(part.rows.tolist(), part.accepted, strict=True)):
            coarse = candidates[row]
            new = cut_out(part.found, index, coarse.row) if accepted else coarse
            refined[row] = replace(new, refined=REFINED if accepted else KEPT_COARSE)
    return [refined[row] for row in range(len(candidates))]
