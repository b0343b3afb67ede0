"""Which samples an epoch's steps are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from wsi_pipeline.training.recipe import Recipe

Item = TypeVar("Item")


def steps_of(recipe: Recipe, numbers: Sequence[int], epoch: int) -> list[list[list[int]]]:
    """Sample numbers of an epoch, the first being 1, by step of the optimiser and by batch.

    They depend on the seed and the epoch alone, so that a run can go on.
    """
    order = np.random.default_rng((recipe.seed, epoch)).permutation(numbers)
    return chunks(chunks(order.tolist(), recipe.batch), recipe.accumulate)


def chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Lists of ``size`` items, the last one of what is left."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def spread(items: Sequence[Item], most: int | None) -> list[Item]:
    """At most so many of the items, evenly spread over them; None for all."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[number] for number in np.linspace(0, len(items) - 1, most).round().astype(int)]
