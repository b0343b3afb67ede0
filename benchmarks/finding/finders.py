"""Ways to find nuclei on a tile; each gives a label image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from benchmarks.heads.subjects import DEVICE, PRECISION, inscribed
from benchmarks.tiles import WORKFLOW, ListedTile
from wsi_pipeline.models.registry import find_model
from wsi_pipeline.models.roles import InstanceSegmenter, PairImages, Prompter, Segmenter
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.prompts.domain_decoder import DomainPrompter
from wsi_pipeline.segment.dense import read_batch, segment_batch
from wsi_pipeline.segment.refine import RefineStage
from wsi_pipeline.stitching.seams import owned
from wsi_pipeline.tiling.plan import Tile, TilePlan
from wsi_pipeline.workflow import ModelSettings, SegmentModelPrompts, SegmentSettings, Workflow

LEAST_AREA = WORKFLOW.vectorize.min_area / WORKFLOW.mpp**2
"""px; a run leaves smaller objects out."""
Placed = tuple[float, np.ndarray, int, int]
"""Score, (h, w) bool mask, and x and y of its corner on the tile."""
Aimed = Mapping[str, tuple[Prompter, float]]
"""By data set a prompter, and the µm per px that it is told."""


class Finder(Protocol):
    """Finds nuclei."""

    def find(self, tile: ListedTile) -> np.ndarray:
        """(H, W) int32 labels of a tile."""
        ...


class Asked:
    """A segmenter that is asked about what a prompter finds.

    Args:
        prompters: find.
        segmenter: draws.
        settings: of the segmenter.
    """

    def __init__(self, prompters: Aimed, segmenter: Segmenter, settings: SegmentSettings) -> None:
        self._prompters, self._segmenter = prompters, segmenter
        self._workflow = WORKFLOW.model_copy(update={"segment": settings})

    def find(self, tile: ListedTile) -> np.ndarray:
        prompter, mpp = self._prompters[tile.dataset]
        return _run(tile, mpp, self._segmenter, prompter, self._workflow)


class Unprompted:
    """A model that finds objects without being asked.

    Args:
        model: finds and draws.
        settings: of the model.
        refine: draws them again.
    """

    def __init__(self, model: InstanceSegmenter, settings: SegmentSettings, refine: RefineStage | None = None) -> None:
        self._model, self._refine = model, refine
        prompts = SegmentModelPrompts(source="segment-model")
        self._workflow = WORKFLOW.model_copy(update={"segment": settings, "prompts": prompts})

    def find(self, tile: ListedTile) -> np.ndarray:
        return _run(tile, WORKFLOW.mpp, self._model, None, self._workflow, self._refine)


class Ellipses:
    """The ellipses in a prompter's boxes: no network at all.

    Args:
        prompters: find.
        size: side of the patches, px.
    """

    def __init__(self, prompters: Aimed, size: int) -> None:
        self._prompters, self._size = prompters, size

    def find(self, tile: ListedTile) -> np.ndarray:
        prompter, mpp = self._prompters[tile.dataset]
        plan = tile.plan(self._size, mpp)
        objects: list[Placed] = []
        for place, here in zip(plan.batch(0), prompter.detect(pairs_of(tile, plan), mpp=mpp), strict=True):
            for box, score in zip(here.boxes, here.scores, strict=True):
                if in_core(box, place):
                    objects.append((float(score), inscribed(box[None], self._size)[0], place.x, place.y))
        return painted(tile, objects)


class DecoderObjects:
    """The domain decoder's own objects.

    Args:
        prompter: sees them.
        size: side of the patches, px.
    """

    def __init__(self, prompter: DomainPrompter, size: int) -> None:
        self._prompter, self._size = prompter, size

    def find(self, tile: ListedTile) -> np.ndarray:
        plan = tile.plan(self._size, WORKFLOW.mpp)
        found = self._prompter.see(pairs_of(tile, plan), mpp=plan.grid.mpp)
        objects: list[Placed] = []
        for place, seen in zip(plan.batch(0), found, strict=True):
            objects += own_objects(seen.labels, seen.probability, place)
        return painted(tile, objects)


def segmenter_for(settings: ModelSettings, embeddings: Path | None) -> Segmenter:
    """A segmenter whose encoder keeps its embeddings in a folder."""
    segmenter = cast(Segmenter, find_model(settings.model).build(settings, device=DEVICE, dtype=PRECISION))
    if isinstance(segmenter, BatchedSegmenter):
        segmenter.encoder.keep_in(embeddings)
    return segmenter


def _run(
    tile: ListedTile,
    mpp: float,
    segmenter: Segmenter | InstanceSegmenter,
    prompter: Prompter | None,
    workflow: Workflow,
    refine: RefineStage | None = None,
) -> np.ndarray:
    """(H, W) int32 labels of a tile, as a dense run finds them; seams are cut instead of merged."""
    plan = tile.plan(segmenter.input_size, mpp)
    images = pairs_of(tile, plan)
    batch = segment_batch(tile, plan, 0, segmenter, prompter, workflow, class_id=0, refine=refine, images=images)
    mine = np.flatnonzero(owned(batch, plan)).tolist()
    corners = batch.bbox[:, :2].tolist()
    return painted(tile, ((float(batch.iou[n]), batch.mask(n), *corners[n]) for n in mine))


def pairs_of(tile: ListedTile, plan: TilePlan, *, low: bool = True) -> PairImages:
    """The patches of a plan, both of each pair or the high ones alone."""
    return read_batch(tile, plan, 0, low=low, context_factor=WORKFLOW.tiling.context_factor)


def own_objects(labels: np.ndarray, probability: np.ndarray, place: Tile) -> Iterable[Placed]:
    """The objects of a patch whose boxes' middles lie in its core; maps and patch have the same px."""
    for number in range(1, int(labels.max(initial=0)) + 1):
        mask = labels == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        if in_core(box, place):
            yield float(probability[mask].mean()), mask, place.x, place.y


def in_core(box: np.ndarray, place: Tile) -> bool:
    """Whether the middle of a box (4,), px of the patch, is in the part of the tile that the patch answers for."""
    middle = (box[:2] + box[2:]) / 2 + (place.x, place.y)
    core = np.array(place.core)
    return bool(((middle >= core[:2]) & (middle < core[2:])).all())


def painted(tile: ListedTile, objects: Iterable[Placed]) -> np.ndarray:
    """(H, W) int32; where objects overlap, the one of the better score is seen. Tiny ones are left out, as in a run."""
    height, width = tile.picture.labels.shape
    canvas = np.zeros((height, width), np.int32)
    large = [one for one in objects if np.count_nonzero(one[1]) >= LEAST_AREA]
    for number, (_, mask, x, y) in enumerate(sorted(large, key=lambda one: one[0]), start=1):
        inside = mask[max(0, -y) : height - y, max(0, -x) : width - x]
        part = canvas[max(0, y) : y + mask.shape[0], max(0, x) : x + mask.shape[1]]
        part[inside] = number
    return canvas
