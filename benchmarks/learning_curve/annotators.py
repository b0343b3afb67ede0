"""Who draws the annotations: a person, or SAM from a person's boxes, or SAM from a detector's boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.finding.finders import Finder, Placed, in_core, painted, pairs_of
from benchmarks.heads.subjects import MARGIN
from benchmarks.tiles import WORKFLOW, ListedTile
from wsi_pipeline.models.roles import PairImages, PromptBatch, Segmenter
from wsi_pipeline.segment.decoding import decode_in_calls
from wsi_pipeline.training.data.samples import Changed, Sample, SampleSource, renumbered


class TrueBoxes:
    """A segmenter that is asked with the boxes of all annotated objects.

    Args:
        segmenter: draws.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def find(self, tile: ListedTile) -> np.ndarray:
        """(H, W) int32 labels."""
        plan = tile.plan(self._segmenter.input_size, WORKFLOW.mpp)
        pairs = pairs_of(tile, plan)
        objects: list[Placed] = []
        boxes = np.array([(c.start, r.start, c.stop, r.stop) for r, c in _places(tile.picture.labels)], np.float32)
        for number, place in enumerate(plan.batch(0)):
            here = boxes.reshape(-1, 4) - np.array([place.x, place.y] * 2, np.float32)
            mine = np.array([box for box in here if in_core(box, place)], np.float32).reshape(-1, 4)
            if not len(mine):
                continue
            asked = PromptBatch(np.zeros(len(mine), np.int64), boxes=np.clip(mine, 0, place.size))
            pair = PairImages(pairs.high[number : number + 1], _one(pairs.low, number), pairs.context_factor)
            embedding: Any = self._segmenter.encode(pair)
            for _, answers in decode_in_calls(self._segmenter, embedding, asked, margin=MARGIN):
                masks = answers.on_patch(place.size)
                objects += [(float(iou), mask, place.x, place.y) for iou, mask in zip(answers.iou, masks, strict=True)]
        return painted(tile, objects)


class Redrawn(Changed):
    """A data set whose training tiles are annotated by somebody else.

    Args:
        source: the data set.
        labels: (H, W) int32 by number of the sample.
    """

    def __init__(self, source: SampleSource, labels: Mapping[int, np.ndarray]) -> None:
        super().__init__(source)
        self._labels = labels

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        if index not in self._labels:
            return sample
        (labels,), numbers = renumbered([self._labels[index]])
        classes = sample.info.class_names[:1] * len(numbers)
        return replace(sample, high=replace(sample.high, labels=labels), classes=classes)


def redrawn(source: SampleSource, tiles: Sequence[ListedTile], finder: Finder) -> Redrawn:
    """The data set with some of its tiles annotated by a finder."""
    return Redrawn(source, {tile.number: finder.find(tile) for tile in tiles})


def _places(labels: np.ndarray) -> list[tuple[slice, slice]]:
    return [place for place in ndimage.find_objects(labels) if place is not None]


def _one(images: np.ndarray | None, number: int) -> np.ndarray | None:
    return None if images is None else images[number : number + 1]
