"""The same made-up prompts for every head."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.heads.tiles import AskedPatch
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.models.roles import PromptBatch
from wsi_pipeline.segment.questions import COARSE_LOGIT
from wsi_pipeline.training.draws import uniform
from wsi_pipeline.training.prompt_simulation import (
    Kind,
    KindWeights,
    PromptRecipe,
    PromptSimulator,
    jittered_boxes,
)

SEED = 0
_ANY = KindWeights(1, 1, 1)


@dataclass(frozen=True, slots=True)
class Way:
    """A way of asking.

    Attributes:
        name: what tables call it.
        kinds: what a model has to take.
        jitter: of boxes, see ``PromptRecipe``.
        points: how many.
    """

    name: str
    kinds: tuple[Kind, ...]
    jitter: float = 0.0
    points: int = 1


TIGHT = Way("tight box", ("box",))
BOXES = (TIGHT, Way("box, 10 % jitter", ("box",), jitter=0.1), Way("box, 20 % jitter", ("box",), jitter=0.2))
WAYS = (
    *BOXES,
    Way("1 point", ("point",)),
    Way("3 points", ("point",), points=3),
    Way("5 points", ("point",), points=5),
    # as an outline is asked about: with the box around it
    Way("noised mask", ("box", "mask")),
)


def ways_for(kinds: Collection[str]) -> list[Way]:
    """Those that a model which takes these kinds of prompts can be asked."""
    return [way for way in WAYS if set(way.kinds) <= set(kinds)]


def prompts_on(patch: AskedPatch, way: Way) -> PromptBatch:
    """A prompt for each object of a patch, in px of the high patch with integers at px corners.

    A prompt depends on its object and the way only: not on the head, nor on what else is asked. All jitters of a box
    go in the same direction.
    """
    index = np.zeros(len(patch.labels), np.int64)
    generators = [_generator(patch, label) for label in patch.labels.tolist()]
    if way.kinds == ("box",):
        return PromptBatch(index, boxes=_boxes(patch, way.jitter, generators))
    recipe = PromptRecipe(_ANY, _ANY, points=way.points, mask_values=(-COARSE_LOGIT, COARSE_LOGIT))
    made = [_simulated(way, PromptSimulator(recipe), *one) for one in zip(patch.truth, generators, strict=True)]
    if "mask" in way.kinds:
        return PromptBatch(
            index,
            boxes=np.concatenate([_rows(one.boxes) for one in made]),
            masks=np.concatenate([_rows(one.masks) for one in made]),
        )
    return PromptBatch(
        index,
        # the simulated ones are px numbers
        points=np.concatenate([_rows(one.points) for one in made]) + np.float32(0.5),
        point_labels=np.concatenate([_rows(one.point_labels) for one in made]),
    )


def _generator(patch: AskedPatch, label: int) -> torch.Generator:
    number = np.random.default_rng((SEED, patch.tile.number, label)).integers(2**62)
    return torch.Generator().manual_seed(int(number))


def _boxes(patch: AskedPatch, jitter: float, generators: list[torch.Generator]) -> np.ndarray:
    """(N, 4) float32."""
    draw = torch.stack([uniform((4,), generator, torch.device("cpu")) for generator in generators])
    tight = torch.from_numpy(bounding_boxes(patch.truth))
    return jittered_boxes(tight, draw, jitter, patch.truth.shape[-1]).numpy()


def _simulated(way: Way, simulator: PromptSimulator, mask: np.ndarray, generator: torch.Generator) -> PromptTensors:
    """(1, 1) prompts."""
    return simulator.of_kinds(way.kinds, torch.from_numpy(mask[None, None]).float(), generator)


def _rows(values: torch.Tensor | None) -> np.ndarray:
    assert values is not None
    return values[0].numpy()
