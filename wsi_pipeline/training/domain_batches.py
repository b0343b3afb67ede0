"""Whole patches as batches for the domain decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.training.batches import Encode
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.domain_target import Target, maps_of
from wsi_pipeline.training.epochs import Patches, random_of
from wsi_pipeline.training.recipe import DomainRecipe
from wsi_pipeline.training.sources import Joined


class DomainBatch(NamedTuple):
    """B patches.

    Attributes:
        high: of the high patches.
        low: (B, 256, 64, 64) embedding of the low patches, or None where they are not wanted.
        target: the truth.
        seed: of what a training step draws.
        share: of its batch.
    """

    high: EncoderOutput
    low: Tensor | None
    target: Target
    seed: int = 0
    share: float = 1.0


class DomainBatches:
    """Makes batches of samples.

    Args:
        recipe: how; names the C classes.
        source: the samples.
        encode: gives the embeddings.
        device: where batches are wanted.
    """

    def __init__(self, recipe: DomainRecipe, source: Joined, encode: Encode, device: torch.device) -> None:
        self._recipe, self._encode, self._device = recipe, encode, device
        self._patches = Patches(recipe, source)

    def training(self, numbers: Sequence[int], epoch: int, step: int, part: int) -> Iterator[DomainBatch]:
        """One part of all samples; see ``Batches``. Patches are those that prompted heads of the same seed see."""
        seed = int(random_of(self._recipe, epoch, step, part).integers(2**62))
        yield from self._batch(self._patches.varied(numbers, (epoch - 1) % self._recipe.variants), seed)

    def validation(self, number: int) -> Iterator[DomainBatch]:
        """The middle of a sample as it is."""
        yield from self._batch([self._patches.plain(number)], 0)

    def _batch(self, samples: Sequence[Sample], seed: int) -> Iterator[DomainBatch]:
        """Nothing where none of the samples is annotated for a class."""
        classes = self._recipe.classes
        samples = [sample for sample in samples if not set(classes).isdisjoint(sample.info.class_names)]
        if not samples:
            return
        high = self._encode(np.stack([sample.high.image for sample in samples]))
        low = None
        if self._recipe.low_patch:
            around = [sample.low.image for sample in samples if sample.low is not None]
            low = self._encode(np.stack(around)).embedding
        targets = zip(*(target_of(sample, classes) for sample in samples), strict=True)
        stacked = (torch.from_numpy(np.stack(arrays)).to(self._device) for arrays in targets)
        yield DomainBatch(high, low, Target(*stacked), seed)


def target_of(sample: Sample, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The truth of a sample's high patch for C classes, see ``maps_of``."""
    class_of = np.array([0, *(classes.index(name) + 1 if name in classes else 0 for name in sample.classes)])
    annotated = np.array([name in sample.info.class_names for name in classes])
    return maps_of(sample.high.labels, sample.high.known, class_of, annotated)
