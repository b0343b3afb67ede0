"""Lessons of patches as batches for SAM-CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.tensor_store import Tensors
from wsi_pipeline.training.epochs import Patches
from wsi_pipeline.training.recipe import FrozenRecipe
from wsi_pipeline.training.sam_clip_lessons import Lessons
from wsi_pipeline.training.sources import Joined

_REMEMBERED = 512
"""Lessons, of about a megabyte each; to make a patch again takes longer than a step."""


class ClipBatch(NamedTuple):
    """B patches, each with V views.

    Attributes:
        pixels: (B, 3, S, S) float32 0..255.
        corners: (V, B, 2) int64 (x, y) of the views, in tokens.
        vectors: (V, B, D) what the teacher says of them.
        tokens: of each view (B, s, s, C); none where the encoder is trained.
        boxes: (B, P, 4) px of the patch, and
        answers: (B, P, 256, 256) SAM's logits to them, where the encoder is trained; else None.
        share: of its batch.
    """

    pixels: Tensor
    corners: Tensor
    vectors: Tensor
    tokens: tuple[Tensor, ...] = ()
    boxes: Tensor | None = None
    answers: Tensor | None = None
    share: float = 1.0


class ClipBatches:
    """Makes batches of samples.

    Args:
        recipe: how.
        source: the samples.
        lessons: what is to be learned of each patch.
        device: where batches are wanted.
    """

    def __init__(self, recipe: FrozenRecipe, source: Joined, lessons: Lessons, device: torch.device) -> None:
        self._variants, self._device = recipe.variants, device
        self._patches, self._lessons = Patches(recipe, source), lessons
        self._looked = lru_cache(_REMEMBERED)(self._look)

    def training(self, numbers: Sequence[int], epoch: int, step: int, part: int) -> Iterator[ClipBatch]:
        """One part of all samples, objects or not; see ``Batches``."""
        yield self._batch([self._looked(number, (epoch - 1) % self._variants) for number in numbers])

    def validation(self, number: int) -> Iterator[ClipBatch]:
        """The middle of a sample as it is."""
        yield self._batch([self._looked(number, None)])

    def _look(self, number: int, variant: int | None) -> tuple[np.ndarray, Tensors]:
        """A sample's patch, augmented or as it is, and its lesson."""
        patches = self._patches
        sample = patches.plain(number) if variant is None else patches.varied([number], variant)[0]
        return sample.high.image, self._lessons.of(sample.high)

    def _batch(self, looked: Sequence[tuple[np.ndarray, Tensors]]) -> ClipBatch:
        images, made = zip(*looked, strict=True)
        put = {name: torch.stack([one[name] for one in made]).to(self._device) for name in made[0]}
        views = range(len(self._lessons.sides))
        return ClipBatch(
            to_tensor(np.stack(images), self._device),
            put["corners"].transpose(0, 1),
            put["vectors"].transpose(0, 1),
            tuple(put[str(number)] for number in views if str(number) in put),
            put.get("boxes"),
            put.get("answers"),
        )
