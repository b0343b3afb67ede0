"""Samples as prompted batches; they depend on the seed, the epoch and their number alone, so that a run can go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch

from wsi_pipeline.models.mask_decoder import CellWindows
from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.segment.questions import COARSE_LOGIT
from wsi_pipeline.spread import spread
from wsi_pipeline.training.batches import Batch, Encode, batch_of, objects_of, separate_prompts, windows_around
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.epochs import Patches, chunks, random_of
from wsi_pipeline.training.losses import INSIDE
from wsi_pipeline.training.prompt_simulation import KindWeights, PromptRecipe, PromptSimulator, tight_boxes
from wsi_pipeline.training.recipe import PromptedRecipe
from wsi_pipeline.training.sources import Joined

POINT_REACH = 3
"""How many times as far windows reach where no box says how large the object is. In use there are none then; whole
patches, four times as slow, taught less about points in the same time."""


class Asked(NamedTuple):
    """The same (B, P) prompts in the frames of both patches."""

    high: PromptTensors
    low: PromptTensors


class PairWindows(NamedTuple):
    """Where masks are drawn on both patches; None for everywhere."""

    high: CellWindows | None = None
    low: CellWindows | None = None


class PromptedBatch(NamedTuple):
    """Pairs that are asked with the same kinds of prompts.

    Attributes:
        windows: of each prompt.
        share: of its batch.
        generator: of what a loss draws.
    """

    batch: Batch
    asked: Asked
    windows: PairWindows
    share: float
    generator: torch.Generator


class PromptedBatches:
    """Makes batches of samples, and makes up prompts for them.

    Args:
        recipe: how.
        source: the samples.
        encode: gives the embeddings.
        device: where batches are wanted.
        pairs: whether low patches are wanted.
        margin: share of a box by which the windows reach beyond it that masks are wanted in; None: whole patches.
    """

    def __init__(
        self,
        recipe: PromptedRecipe,
        source: Joined,
        encode: Encode,
        device: torch.device,
        *,
        pairs: bool = False,
        margin: float | None = None,
    ) -> None:
        self._recipe, self._encode, self._device, self._pairs, self._margin = recipe, encode, device, pairs, margin
        self._patches = Patches(recipe, source)
        self._simulator = PromptSimulator(prompts_of(recipe))
        self._steady = PromptSimulator(PromptRecipe(KindWeights(1, 0, 0), KindWeights(1, 0, 0), to_edges=True))

    def training(self, numbers: Sequence[int], epoch: int, step: int, part: int) -> Iterator[PromptedBatch]:
        """What a batch of these samples is asked; nothing where none of them shows an object.

        Args:
            numbers: of the samples.
            epoch, step, part: numbers of the epoch, of the step in it and of the batch in that.
        """
        random = random_of(self._recipe, epoch, step, part)
        varied = self._patches.varied(numbers, (epoch - 1) % self._recipe.variants)
        samples, chosen = self._with_objects(varied, random)
        if samples:
            batch = batch_of(samples, chosen, self._encode, self._device, pairs=self._pairs)
            generator = torch.Generator(self._device).manual_seed(int(random.integers(2**62)))
            yield from self._asked(batch, self._simulator, generator)

    def validation(self, number: int) -> Iterator[PromptedBatch]:
        """The boxes of objects in the middle of a sample, ``recipe.objects`` at once."""
        sample = self._patches.plain(number)
        judged = spread(objects_of(sample.high, self._recipe.min_object).tolist(), self._recipe.judged_objects)
        for chosen in chunks(judged, self._recipe.objects):
            batch = batch_of([sample], [np.array(chosen)], self._encode, self._device, pairs=self._pairs)
            yield from self._asked(batch, self._steady, torch.Generator(self._device))

    def _asked(self, batch: Batch, simulator: PromptSimulator, generator: torch.Generator) -> Iterator[PromptedBatch]:
        targets = batch.high.targets
        for images, high, low in simulator.draw_pairs(targets, self._recipe.context_factor, generator):
            part, share = batch.map(itemgetter(images)), len(images) / len(targets)
            if high.masks is not None:
                part, high, low = part.separate(), separate_prompts(high), separate_prompts(low)
            yield PromptedBatch(part, Asked(high, low), self._windows(part, high), share, generator)

    def _windows(self, batch: Batch, high: PromptTensors) -> PairWindows:
        if self._margin is None:
            return PairWindows()
        boxes, margin = high.boxes, self._margin
        if boxes is None:
            boxes, margin = tight_boxes(batch.high.targets > INSIDE), margin * POINT_REACH
        size = self._patches.size
        low = PromptTensors(boxes=boxes).in_low_patch(size, self._recipe.context_factor).boxes
        assert low is not None
        return PairWindows(windows_around(boxes, margin, size), windows_around(low, margin, size))

    def _with_objects(
        self, samples: Sequence[Sample], random: np.random.Generator
    ) -> tuple[list[Sample], list[np.ndarray]]:
        """Samples that show objects, and equally many objects of each: those of samples with fewer several times."""
        shown = [(sample, objects_of(sample.high, self._recipe.min_object)) for sample in samples]
        shown = [(sample, random.permutation(labels)) for sample, labels in shown if len(labels)]
        count = min(self._recipe.objects, max((len(labels) for _, labels in shown), default=0))
        return [sample for sample, _ in shown], [np.resize(labels, count) for _, labels in shown]


def prompts_of(recipe: PromptedRecipe) -> PromptRecipe:
    """How prompts are made up: as they are asked in use."""
    shares = recipe.prompts
    weights = KindWeights(shares.box, shares.point, shares.mask)
    # points are filled up, so that there always are some
    return PromptRecipe(
        weights,
        weights,
        to_edges=True,
        jitter=shares.jitter,
        points=shares.points,
        vary_points=True,
        negative=shares.negative,
        mask_values=(-COARSE_LOGIT, COARSE_LOGIT),
        combined=shares.combined,
        smooth=shares.smooth,
    )
