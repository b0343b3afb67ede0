"""What is chosen before anything is measured: on training tiles, never on those that are measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torchvision.ops import box_iou

from benchmarks.finding.finders import Aimed, in_core, own_objects, painted, pairs_of
from benchmarks.tiles import WORKFLOW, ListedTile
from wsi_pipeline.evaluation.aggregate import pooled
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.metrics import Score, score
from wsi_pipeline.models.domain_decoder.splitting import SplitSettings, split_objects
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.prompts.domain_decoder import DomainPrompter
from wsi_pipeline.prompts.nuclei import NucleusDetector
from wsi_pipeline.tiling.plan import Tile
from wsi_pipeline.workflow import NucleusDetectorPrompts

MPPS = (0.2, 0.25, 0.35, 0.5, 0.7)
DARKNESS = (0.75, 1.0, 1.3)
THRESHOLDS = (0.4, 0.5, 0.6)
PROMINENCES = (0.1, 0.2, 0.3)
AREAS = (5.0, 10.0)
"""µm² at the workflow's resolution."""
_MATCH = 0.5
"""IoU above which a box is that of a true nucleus."""


class Classical(NamedTuple):
    """How the classical detector is asked about a data set.

    Attributes:
        mpp: µm per px that its tiles are taken to have; their publishers do not say.
        threshold: see ``NucleusDetectorPrompts``.
        f1: of its boxes on the training tiles.
    """

    mpp: float
    threshold: float
    f1: float = 0.0

    def detector(self) -> NucleusDetector:
        return NucleusDetector(NucleusDetectorPrompts(source="nucleus-detector", threshold=self.threshold))


class Looked(NamedTuple):
    """A tile and its patches."""

    tile: ListedTile
    places: list[Tile]
    images: PairImages

    @classmethod
    def at(cls, tile: ListedTile, size: int, *, low: bool) -> Looked:
        plan = tile.plan(size, WORKFLOW.mpp)
        return cls(tile, plan.batch(0), pairs_of(tile, plan, low=low))


def choose_classical(tiles: Sequence[ListedTile], size: int) -> dict[str, Classical]:
    """The resolution with the best F1 of boxes, and then the threshold with the best, for each data set."""
    by_set: defaultdict[str, list[Looked]] = defaultdict(list)
    for tile in tiles:
        by_set[tile.dataset].append(Looked.at(tile, size, low=False))
    chosen = {}
    for name, some in by_set.items():
        mpp = _best([Classical(mpp, 1.0) for mpp in MPPS], some).mpp
        chosen[name] = _best([Classical(mpp, dark) for dark in DARKNESS], some)
    return chosen


def aimed(chosen: Mapping[str, Classical]) -> Aimed:
    """The classical detector as it was chosen for each data set."""
    return {name: (one.detector(), one.mpp) for name, one in chosen.items()}


def choose_split(tiles: Sequence[ListedTile], prompter: DomainPrompter, size: int) -> tuple[SplitSettings, float]:
    """How the decoder's objects are told apart, by PQ; and that PQ."""
    seen = []
    for tile in tiles:
        _, places, images = Looked.at(tile, size, low=True)
        maps = prompter.model.maps(images)
        arrays = (maps.masks[:, 0].sigmoid().numpy(), maps.distances[:, 0].numpy(), places)
        seen.append((tile, list(zip(*arrays, strict=True))))

    def quality(settings: SplitSettings) -> float:
        scores = []
        for tile, patches in seen:
            objects = [
                one
                for mask, distance, place in patches
                for one in own_objects(split_objects(mask, distance, settings), mask, place)
            ]
            scores.append(score(Labels.of(tile.picture.labels), Labels.of(painted(tile, objects))))
        return pq_of(scores)

    tried = [
        SplitSettings(threshold, prominence, min_area=area / WORKFLOW.mpp**2)
        for threshold, prominence, area in product(THRESHOLDS, PROMINENCES, AREAS)
    ]
    found = [(quality(settings), settings) for settings in tried]
    best, settings = max(found, key=lambda one: one[0])
    return settings, best


def pq_of(scores: Sequence[Score]) -> float:
    """Pooled over tiles."""
    return float(pooled(scores, np.ones((1, len(scores)), np.int64))["pq"][0])


def _best(tried: Sequence[Classical], looked: Sequence[Looked]) -> Classical:
    return max((one._replace(f1=_box_f1(looked, one)) for one in tried), key=lambda one: one.f1)


def _box_f1(looked: Sequence[Looked], how: Classical) -> float:
    detector = how.detector()
    matched = found = wanted = 0
    for tile, places, images in looked:
        boxes = [np.zeros((0, 4))]
        for place, here in zip(places, detector.detect(images, mpp=how.mpp), strict=True):
            boxes += [box[None] + (place.x, place.y) * 2 for box in here.boxes if in_core(box, place)]
        predicted, truth = np.concatenate(boxes), _true_boxes(tile.picture.labels)
        matched += _met(predicted, truth)
        found, wanted = found + len(predicted), wanted + len(truth)
    return 2 * matched / max(1, found + wanted)


def _met(predicted: np.ndarray, truth: np.ndarray) -> int:
    """How many of the true boxes (M, 4) one of the boxes (N, 4) overlaps enough."""
    overlap = box_iou(torch.from_numpy(predicted), torch.from_numpy(truth))
    return int((overlap > _MATCH).any(dim=0).sum())


def _true_boxes(labels: np.ndarray) -> np.ndarray:
    """(N, 4) float64."""
    found = [place for place in ndimage.find_objects(labels) if place is not None]
    return np.array([(c.start, r.start, c.stop, r.stop) for r, c in found], float).reshape(-1, 4)
