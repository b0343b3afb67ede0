"""What a network says of scenes that it did not learn from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.nested_scenes import CELL_TYPES, OBJECTS, PARTS
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.semantic_sam.answers import GUESSES, POINT, Answers
from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam
from wsi_pipeline.training.many_to_many import Targets, spread_by_size
from wsi_pipeline.training.semantic_sam_batches import LevelBatch
from wsi_pipeline.training.semantic_sam_head import HIT, areas_of, overlaps

TOGETHER, ALONE = 200, 10
"""Clicks of a batch, and how many of them are asked alone, too."""


class Found(NamedTuple):
    """Of T true masks around clicks the answer that is nearest to each, and of C clicks all six.

    Attributes:
        name: (T,) str of the true masks.
        iou: (T,) float64.
        said: (T,) float64 predicted quality.
        right: (T,) bool, whether the head that knows the name tells it.
        areas: (C, 6) float64 share of the patch that answers cover, level by level, the coarsest first.
    """

    name: np.ndarray
    iou: np.ndarray
    said: np.ndarray
    right: np.ndarray
    areas: np.ndarray

    @property
    def dice(self) -> np.ndarray:
        return 2 * self.iou / (1 + self.iou)

    @property
    def recall(self) -> float:
        """Share of the true masks that an answer hits."""
        return float((self.iou >= HIT).mean())

    def of(self, *names: str) -> Found:
        """The same for the true masks of these names."""
        some = np.isin(self.name, names)
        return Found(self.name[some], self.iou[some], self.said[some], self.right[some], self.areas)


@torch.no_grad()
def measure(network: MiniSemanticSam, levels: tuple[int, ...], parts: Iterable[LevelBatch]) -> Found:
    """What a network says of clicks on samples all of whose objects have names."""
    found = []
    for part in parts:
        (answers,) = network.decode(network.features(part.seen), part.boxes, part.kinds)
        found.append(_nearest(answers, part.targets, levels))
    return Found(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _nearest(answers: Answers, targets: Targets, levels: tuple[int, ...]) -> Found:
    assert answers.objects is not None
    assert answers.parts is not None
    iou, token = overlaps(answers, targets).max(dim=1)
    mine = targets.click, token
    objects, parts = (one.flatten(0, 1)[mine].argmax(dim=-1) for one in (answers.objects, answers.parts))
    is_object = targets.objects >= 0
    number = torch.where(is_object, targets.objects, len(OBJECTS) + targets.parts)
    told = torch.where(is_object, objects, len(OBJECTS) + parts)
    return Found(
        np.array([*OBJECTS, *PARTS])[number.numpy()],
        iou.double().numpy(),
        answers.quality.flatten(0, 1)[mine].double().numpy(),
        (told == number).numpy(),
        areas_of(answers)[:, list(levels)].double().numpy(),
    )


def scores_of(found: Found) -> dict[str, float]:
    """All numbers of a network by name."""
    return {
        "recall": found.recall,
        "best_iou": float(found.iou.mean()),
        "order": order_of(found.areas),
        "within": order_within(found.areas),
        "said": float(found.said.mean()),
        "dice": float(found.dice.mean()),
        "objects": float(found.of(*CELL_TYPES).right.mean()),
        "parts": float(found.of(*PARTS).right.mean()),
    }


def true_areas(targets: Targets) -> np.ndarray:
    """(C, 6) float64 share of the patch that the true masks around each click cover, spread over the levels."""
    spread, _ = spread_by_size(targets)
    areas: np.ndarray = spread.masks.mean(dim=(1, 2)).double().numpy().reshape(-1, GUESSES)
    return areas


def order_of(areas: np.ndarray) -> float:
    """Spearman's correlation of areas (C, 6) with how coarse their levels are, over all answers to all clicks."""
    from scipy.stats import spearmanr

    coarse = np.broadcast_to(np.arange(areas.shape[1], 0, -1), areas.shape)
    return float(spearmanr(coarse.ravel(), areas.ravel()).statistic)


def order_within(areas: np.ndarray) -> float:
    """The mean over clicks of the same correlation among the answers to one click; clicks whose answers are all of one
    size have none."""
    from scipy.stats import rankdata

    differ = areas[areas.max(axis=1) > areas.min(axis=1)]
    ranks = rankdata(differ, axis=1) - (areas.shape[1] + 1) / 2
    coarse = np.arange(areas.shape[1], 0, -1) - (areas.shape[1] + 1) / 2
    return float((ranks @ coarse / np.sqrt((ranks**2).sum(axis=1) * (coarse**2).sum())).mean())


@torch.no_grad()
def apart(network: MiniSemanticSam, seen: EncoderOutput) -> float:
    """The most that the answers to some of ``TOGETHER`` clicks differ from those of the same clicks asked alone.

    Of masks, probabilities count: far from an object logits have any size.
    """
    features = network.features(seen)
    boxes = torch.rand(1, TOGETHER, 4, generator=torch.Generator().manual_seed(0))
    kinds = torch.full((1, TOGETHER), POINT)
    (together,) = network.decode(features, boxes, kinds)
    most = 0.0
    for click in range(0, TOGETHER, TOGETHER // ALONE):
        here = slice(click, click + 1)
        (alone,) = network.decode(features, boxes[:, here], kinds[:, here])
        pairs = zip(_numbers(alone), (one[:, here] for one in _numbers(together)), strict=True)
        most = max(most, *(float((one - other).abs().max()) for one, other in pairs))
    return most


def _numbers(answers: Answers) -> tuple[Tensor, ...]:
    assert answers.objects is not None
    assert answers.parts is not None
    return answers.masks.sigmoid(), answers.quality, answers.boxes, answers.objects, answers.parts
