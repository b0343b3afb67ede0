"""Whole patches as batches for the domain decoder: which px are of a class, and how far each is from its outline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from wsi_pipeline.models.domain_decoder.decoder import MAP_SIZE
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.training.batches import Encode
from wsi_pipeline.training.data.samples import Picture, Sample
from wsi_pipeline.training.epochs import Patches, random_of
from wsi_pipeline.training.recipe import DomainRecipe
from wsi_pipeline.training.sources import Joined


class Target(NamedTuple):
    """What is known of patches.

    Attributes:
        masks: (B, C, 256, 256) float32, 1 inside objects of the class.
        distances: (B, C, 256, 256) float32 in 0..1, see ``DomainMaps``.
        known: (B, C, 256, 256) bool; nowhere for a class that nobody annotated on a patch.
    """

    masks: Tensor
    distances: Tensor
    known: Tensor


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
    """The truth of a sample's high patch for C classes.

    Returns:
        As in ``Target`` without its first axis.
    """
    labels, seen = _on_map(sample.high)
    # background and all objects by the number of their label
    names = np.array(["", *sample.classes], dtype=object)
    masks = np.stack([(labels > 0) & (names == name)[labels] for name in classes])
    known = np.stack([seen & (name in sample.info.class_names) for name in classes])
    depth = depths(labels, seen)
    return masks.astype(np.float32), np.where(masks, depth, 0).astype(np.float32), known


def depths(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How deep inside its object each px lies, as a share of the object's deepest.

    Args:
        labels: (H, W) int32, 0 for background.
        known: (H, W) bool; where nothing is known, and beyond the image, an object is taken to go on.

    Returns:
        (H, W) float64 in 0..1, 0 outside of objects.
    """
    result = np.zeros(labels.shape)
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        around = tuple(slice(max(0, one.start - 1), one.stop + 1) for one in place)
        mine = labels[around] == number
        depth = ndimage.distance_transform_edt(mine | ~known[around])
        result[around][mine] = depth[mine] / depth[mine].max()
    return result


def _on_map(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """(256, 256) labels and whether they are known, each px that in the middle of a cell of the patch."""
    step = picture.labels.shape[0] // MAP_SIZE
    cells = slice(step // 2, None, step)
    return picture.labels[cells, cells], picture.known[cells, cells]
