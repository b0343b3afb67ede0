"""Clicks and boxes on patches with all true masks around them, as batches for Semantic-SAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.semantic_sam.answers import BOX, GUESSES, POINT
from wsi_pipeline.training.batches import Encode
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.data.warp import WarpRange
from wsi_pipeline.training.epochs import Patches, random_of
from wsi_pipeline.training.many_to_many import Targets
from wsi_pipeline.training.semantic_sam_recipe import SemanticRecipe
from wsi_pipeline.training.sources import Joined

_BOX_NOISE = np.array([0.2, 0.2, 0.4, 0.4])
"""How far cx, cy, w and h of a box may be moved, shares of its size; published."""

_KEPT = 1_000
"""Patches that stay in memory, 500 kB each."""


class LevelBatch(NamedTuple):
    """n prompts on each of B patches.

    Attributes:
        seen: of the patches.
        boxes: (B, n, 4) float32 cx, cy, w, h as shares of the patch; clicks have no size.
        kinds: (B, n) int64, ``POINT`` or ``BOX``.
        targets: of the B * n prompts, one patch after the other.
        seed: of what a training step draws.
        share: of its batch.
    """

    seen: EncoderOutput
    boxes: Tensor
    kinds: Tensor
    targets: Targets
    seed: int = 0
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Asking:
    """How prompts are drawn.

    Attributes:
        count: n.
        boxes: share of them that are boxes.
        most: targets of a click; the first is the object that it was drawn in.
        smallest: px; smaller objects are nobody's target.
    """

    count: int
    boxes: float
    most: int
    smallest: int


class Prompts(NamedTuple):
    """n prompts on a sample, and the T masks that are true of them.

    Attributes:
        boxes: (n, 4) float64 cx, cy, w, h as shares of the patch; clicks have no size.
        kinds: (n,) int64.
        click: (T,) int64 number of the prompt, ascending.
        target: (T,) int64 label of the object.
    """

    boxes: np.ndarray
    kinds: np.ndarray
    click: np.ndarray
    target: np.ndarray


class SemanticBatches:
    """Makes batches of samples.

    Args:
        recipe: how; names the classes.
        source: the samples.
        encode: gives the embeddings.
        device: where batches are wanted.
    """

    def __init__(self, recipe: SemanticRecipe, source: Joined, encode: Encode, device: torch.device) -> None:
        self._recipe, self._encode, self._device = recipe, encode, device
        self._patches = Patches(recipe, source, WarpRange(zoom=recipe.zoom))
        self._memory: dict[tuple[int, int], Sample] = {}
        most = 1 if recipe.matching == "many-to-one" else GUESSES
        self._asking = Asking(recipe.clicks, recipe.boxes, most, recipe.min_object)
        self._judging = Asking(recipe.judged_clicks, 0.0, GUESSES, recipe.min_object)

    def training(self, numbers: Sequence[int], epoch: int, step: int, part: int) -> Iterator[LevelBatch]:
        """One part of all samples that show objects; see ``Batches``."""
        random = random_of(self._recipe, epoch, step, part)
        variant = (epoch - 1) % self._recipe.variants
        yield from self._batch([self._version(number, variant) for number in numbers], self._asking, random)

    def validation(self, number: int) -> Iterator[LevelBatch]:
        """Clicks in the middle of a sample as it is, with all objects around each."""
        random = np.random.default_rng((self._recipe.seed, number))
        yield from self._batch([self._patches.plain(number)], self._judging, random)

    def _version(self, number: int, variant: int) -> Sample:
        """An augmented version of a sample, made once as long as there is room."""
        if (number, variant) in self._memory:
            return self._memory[number, variant]
        (pair,) = self._patches.varied([number], variant)
        version = replace(pair, low=None)
        if len(self._memory) < _KEPT:
            self._memory[number, variant] = version
        return version

    def _batch(self, samples: Sequence[Sample], asking: Asking, random: np.random.Generator) -> Iterator[LevelBatch]:
        shown = []
        for sample in samples:
            prompts = draw_prompts(sample, asking, random)
            shown += [] if prompts is None else [(sample, prompts)]
        if not shown:
            return
        names = self._recipe.network.objects, self._recipe.network.parts
        parts = [targets_of(sample, prompts, names) for sample, prompts in shown]
        every = Targets(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        image = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(one.click) for one in parts]))
        targets = Targets(*(one.to(self._device) for one in every._replace(click=every.click + asking.count * image)))
        boxes = np.stack([prompts.boxes for _, prompts in shown]).astype(np.float32)
        kinds = np.stack([prompts.kinds for _, prompts in shown])
        yield LevelBatch(
            self._encode(np.stack([sample.high.image for sample, _ in shown])),
            torch.from_numpy(boxes).to(self._device),
            torch.from_numpy(kinds).to(self._device),
            targets,
            int(random.integers(2**62)),
        )


def draw_prompts(sample: Sample, asking: Asking, random: np.random.Generator) -> Prompts | None:
    """Prompts in random objects of a sample's high patch, large and small ones as often; None where there are none.

    A click is in a random px of its object, a box around it, moved a little.
    """
    labels, around = _seen(sample)
    own = np.bincount(labels.ravel(), minlength=len(around))
    large = around @ own >= asking.smallest
    if not large.any():
        return None
    drawn = random.choice(np.flatnonzero(large), asking.count)
    px = _px_in(labels, around[drawn] * own, random)
    rows, columns = np.divmod(px, labels.shape[1])
    boxes = np.stack([columns + 0.5, rows + 0.5, *np.zeros((2, asking.count))], axis=1) / labels.shape[0]
    boxed = random.random(asking.count) < asking.boxes
    true = _boxes_of(labels, around, drawn[boxed])
    boxes[boxed] = true + random.uniform(-1, 1, true.shape) * _BOX_NOISE * np.tile(true[:, 2:], 2)
    others = around[:, labels.flat[px]].T & large & ~boxed[:, None]
    click, target = _some_of(others, drawn, asking.most, random)
    return Prompts(boxes, np.where(boxed, BOX, POINT), click, target)


def _px_in(labels: np.ndarray, counts: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n,) int64 a random px of each of n objects, which have so many px (n, N + 1) of each label."""
    reach = counts.cumsum(axis=1)
    shares = random.random((2, len(counts)))
    label = (reach <= (shares[0] * reach[:, -1])[:, None]).sum(axis=1)
    by_label = labels.argsort(axis=None, kind="stable")
    all_px = np.bincount(labels.ravel())
    first = all_px.cumsum() - all_px
    return by_label[first[label] + (shares[1] * all_px[label]).astype(np.int64)]


def _some_of(
    around: np.ndarray, drawn: np.ndarray, most: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of clicks and objects, by click: of each click the object it was drawn in, and ``most - 1`` at most of the
    others around it (n, N + 1), any of them."""
    rank = np.where(around, random.random(around.shape), np.inf)
    rank[np.arange(len(drawn)), drawn] = -1
    order = rank.argsort(axis=1)[:, :most]
    click, place = np.nonzero(np.isfinite(np.take_along_axis(rank, order, axis=1)))
    return click, order[click, place]


def holders(count: int, parents: Sequence[int]) -> np.ndarray:
    """(N + 1, N + 1) bool: whether object n covers the px of label m; 0, background, covers none and is in none."""
    held = np.arange(count + 1)
    above = np.array([0, *parents]) if parents else np.zeros(count + 1, np.int64)
    covers = np.zeros((count + 1, count + 1), bool)
    around = held
    while around.any():
        covers[around, held] = True
        around = above[around]
    covers[0] = False
    return covers


def targets_of(sample: Sample, prompts: Prompts, names: tuple[Sequence[str], Sequence[str]]) -> Targets:
    """The true masks of prompts on a sample.

    Args:
        sample: whose high patch is asked about.
        prompts: on it.
        names: of the classes of objects and of parts; an object whose class is in neither of them is not named.
    """
    labels, around = _seen(sample)
    wanted, row = np.unique(prompts.target, return_inverse=True)
    numbers = (
        np.array([of.index(sample.classes[label - 1]) if sample.classes[label - 1] in of else -1 for label in wanted])
        for of in names
    )
    objects, parts = (torch.from_numpy(one[row]) for one in numbers)
    return Targets(
        torch.from_numpy(prompts.click),
        torch.from_numpy(around[wanted][:, labels].astype(np.float32)[row]),
        torch.from_numpy(~sample.high.known).float().expand(len(row), -1, -1),
        torch.from_numpy(_boxes_of(labels, around, wanted)[row].astype(np.float32)),
        objects,
        parts,
    )


def _seen(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the high patch, as far as they are known, and what each object covers."""
    return np.where(sample.high.known, sample.high.labels, 0), holders(len(sample.classes), sample.parents)


def _boxes_of(labels: np.ndarray, around: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(N, 4) float64 cx, cy, w, h of objects as shares of the patch (S, S)."""
    edges = bounding_boxes(around[wanted][:, labels]).astype(float) / labels.shape[0]
    return np.concatenate([(edges[:, :2] + edges[:, 2:]) / 2, edges[:, 2:] - edges[:, :2]], axis=1)
