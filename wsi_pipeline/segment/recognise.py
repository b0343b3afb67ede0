"""The recognise stage: what every object is, told from its mask on the patch it was found on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.models.roles import Recogniser, Regions
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.segment.candidates import Candidate
from wsi_pipeline.segment.objects import ObjectBatch
from wsi_pipeline.workflow import RecogniseSettings

REGIONS_AT_ONCE = 512
"""Most regions of one call: what a model pools from each is some tens of kilobytes."""

REGION_PX = 2**25
"""Most px of the boxes of one call: 32 MB of masks."""

ANY_SIZE = 512
"""Side in px of the patches for a recogniser that takes any, where no other model says how large they are."""

PatchMask = tuple[tuple[int, int], np.ndarray]
"""Patch px of the top-left corner, and (h, w) bool, which lies within the patch."""


@dataclass(frozen=True, slots=True)
class RecogniseStage:
    """A workflow's recognise section, the model it names, and what its classes are called in a run.

    Attributes:
        recogniser: tells C classes apart.
        settings: of the section.
        class_ids: (C,) int16, place of each class in the run's list of classes; 0 for the background.
    """

    recogniser: Recogniser
    settings: RecogniseSettings
    class_ids: np.ndarray

    @classmethod
    def of(cls, recogniser: Recogniser, settings: RecogniseSettings, classes: Sequence[str | None]) -> RecogniseStage:
        """The stage of a run whose objects are of ``classes``, see ``run_classes``."""
        named = [None if name == settings.background else name for name in recogniser.class_names]
        return cls(recogniser, settings, np.array([classes.index(name) for name in named], np.int16))

    @property
    def n_classes(self) -> int:
        return len(self.class_ids)

    def named(self, objects: ObjectBatch) -> ObjectBatch:
        """The objects with the classes that follow from their probabilities; those nobody saw keep theirs."""
        settings, before, probabilities = self.settings, objects.class_id, objects.probabilities
        if not len(objects):
            return objects
        best, surest = probabilities.argmax(axis=1), probabilities.max(axis=1)
        found = np.where(surest >= np.float32(settings.min_probability), self.class_ids[best], np.int16(0))
        kept = np.isnan(surest) | (settings.keep_classes & (before > 0))
        return replace(objects, class_id=np.where(kept, before, found))


def run_classes(
    own: Sequence[str | None], settings: RecogniseSettings | None, names: Sequence[str]
) -> tuple[str | None, ...]:
    """The classes of a run: those its objects may have without a recogniser, and the others of its ``names``."""
    background = None if settings is None else settings.background
    return tuple(dict.fromkeys([*own, *(name for name in names if name != background)]))


def recognise_masks(
    stage: RecogniseStage, embedding: Any, image: int, masks: Sequence[PatchMask], size: int
) -> np.ndarray:
    """Ask about the objects of one patch, in calls that fit in memory; nothing but them decides how they are cut.

    Args:
        stage: who is asked.
        embedding: of the pairs the patch is one of, by its recogniser.
        image: number of the pair.
        masks: N of them, none empty.
        size: side of the patches that the masks are in px of; the recogniser may see the same field in patches of
            another size.

    Returns:
        (N, C) float32 probabilities.
    """
    recogniser = stage.recogniser
    scale = (recogniser.input_size or size) / size
    parts = [np.zeros((0, stage.n_classes), np.float32)]
    for some in _calls(masks, scale):
        at_scale = [_scaled(one, scale, size) for one in some]
        boxes = [(x, y, x + mask.shape[1], y + mask.shape[0]) for (x, y), mask in at_scale]
        regions = Regions(np.full(len(some), image), np.array(boxes, np.int64), [mask for _, mask in at_scale])
        parts.append(recogniser.recognise(embedding, regions))
    return np.concatenate(parts).astype(np.float32, copy=False)


def recognise_candidates(
    stage: RecogniseStage, embedding: Any, image: int, candidates: Sequence[Candidate], size: int
) -> list[Candidate]:
    """The objects of a tile with the probabilities of their classes; arguments as of ``recognise_masks``."""
    masks: list[PatchMask] = [((int(one.box[0]), int(one.box[1])), one.mask) for one in candidates]
    told = recognise_masks(stage, embedding, image, masks, size)
    return [replace(one, probabilities=row) for one, row in zip(candidates, told, strict=True)]


def outline_on_patch(outline: BaseGeometry, to_patch: Affine2D, size: int) -> PatchMask:
    """An outline (level-0 px) on a patch of ``size`` px; what is too small to hold a px's middle fills its box."""
    bounds = to_patch.apply(np.reshape(outline.bounds, (2, 2)))
    left, top = np.clip(np.floor(bounds[0]), 0, size - 1).astype(int).tolist()
    right, bottom = np.clip(np.ceil(bounds[1]), (left + 1, top + 1), size).astype(int).tolist()
    mask = rasterise(outline, Affine2D(tx=-left, ty=-top).after(to_patch), right - left, bottom - top)
    return (left, top), mask if mask.any() else np.ones_like(mask)


def _calls(masks: Sequence[PatchMask], scale: float) -> Iterator[list[PatchMask]]:
    some: list[PatchMask] = []
    px = 0.0
    for one in masks:
        more = one[1].size * max(scale, 1) ** 2
        if some and (len(some) == REGIONS_AT_ONCE or px + more > REGION_PX):
            yield some
            some, px = [], 0.0
        some.append(one)
        px += more
    if some:
        yield some


def _scaled(one: PatchMask, scale: float, size: int) -> PatchMask:
    """A mask on a patch of ``size`` px in px of one with ``scale`` times as many; what is lost there fills its box."""
    if scale == 1:
        return one
    (x, y), mask = one
    rows, top = _sources(y, mask.shape[0], scale, size)
    columns, left = _sources(x, mask.shape[1], scale, size)
    scaled = mask[np.ix_(rows, columns)]
    return (left, top), scaled if scaled.any() else np.ones_like(scaled)


def _sources(start: int, length: int, scale: float, size: int) -> tuple[np.ndarray, int]:
    """Which of ``length`` px from ``start`` on the px of the other patch show, and the first of these."""
    last = round(size * scale)
    first = min(int(start * scale), last - 1)
    stop = min(max(int(np.ceil((start + length) * scale)), first + 1), last)
    middles = (np.arange(first, stop) + 0.5) / scale
    return np.clip(np.floor(middles).astype(np.int64) - start, 0, length - 1), first
