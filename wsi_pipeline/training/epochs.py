"""What an epoch is made of: which samples are in a step, and how they look in it.

All of it depends on the recipe's seed and on numbers of epoch, step and batch alone, so that a run can go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from wsi_pipeline.models.resolve import BACKBONES
from wsi_pipeline.training.data.augment import Augmentation, AugmentedPairs
from wsi_pipeline.training.data.samples import Sample, SampleSource
from wsi_pipeline.training.data.warp import WarpRange
from wsi_pipeline.training.recipe import Recipe

Item = TypeVar("Item")


def steps_of(recipe: Recipe, numbers: Sequence[int], epoch: int) -> list[list[list[int]]]:
    """Sample numbers of an epoch, the first being 1, by step of the optimiser and by batch."""
    order = np.random.default_rng((recipe.seed, epoch)).permutation(numbers)
    return chunks(chunks(order.tolist(), recipe.batch), recipe.accumulate)


def random_of(recipe: Recipe, epoch: int, step: int, part: int) -> np.random.Generator:
    """The source of all draws of a batch, by the numbers of the epoch, of the step in it and of the batch in that."""
    return np.random.default_rng((recipe.seed, epoch, step, part))


class Patches:
    """Samples as pairs of patches of the backbone's size.

    Args:
        recipe: how; the same seed gives the same patches, whatever is trained on them.
        source: the samples.
        warp: geometry of their versions; None for the usual.
    """

    def __init__(self, recipe: Recipe, source: SampleSource, warp: WarpRange | None = None) -> None:
        self._source, self._seed = source, recipe.seed
        self.size = BACKBONES[recipe.backbone].input_size
        self._varied = Augmentation(self.size, recipe.context_factor, warp=warp or WarpRange())
        self._plain = Augmentation.none(self.size, recipe.context_factor)

    def varied(self, numbers: Sequence[int], variant: int) -> list[Sample]:
        """An augmented version of samples."""
        pairs = AugmentedPairs(self._source, self._varied, self._seed, variant)
        return [pairs[number] for number in numbers]

    def plain(self, number: int) -> Sample:
        """The middle of a sample as it is."""
        return AugmentedPairs(self._source, self._plain, self._seed)[number]


def chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Lists of ``size`` items, the last one of what is left."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
