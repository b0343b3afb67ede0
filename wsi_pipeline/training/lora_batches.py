"""Whole patches with all their objects as batches for LoRA-SAM, whose encoder has to see them anew each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.lora_sam.box_heads import Truth
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.training.batches import objects_of
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.epochs import Patches, random_of
from wsi_pipeline.training.recipe import LoraRecipe
from wsi_pipeline.training.sources import Joined


class PatchBatch(NamedTuple):
    """B patches.

    Attributes:
        pixels: (B, 3, S, S) float32 0..255.
        truths: what is known of each; none is without objects.
        seed: of what a training step draws.
        share: of its batch.
    """

    pixels: Tensor
    truths: tuple[Truth, ...]
    seed: int = 0
    share: float = 1.0


class PatchBatches:
    """Makes batches of samples; nothing is cached, so every epoch sees new versions of them.

    Args:
        recipe: how; names the classes.
        source: the samples.
        device: where batches are wanted.

    Raises:
        TrainingError: a sample is annotated for some of the classes only: what is not annotated is background.
    """

    def __init__(self, recipe: LoraRecipe, source: Joined, device: torch.device) -> None:
        self._recipe, self._device = recipe, device
        self._patches = Patches(recipe, source)
        for info in source.infos:
            missing = sorted(set(recipe.classes) - set(info.class_names))
            if missing and len(missing) < len(recipe.classes):
                raise TrainingError(
                    f"{info.source_id} is not annotated for {', '.join(missing)}, which would count as background",
                    where="classes",
                    fix="Annotate all classes everywhere, or train for one at a time",
                )

    def training(self, numbers: Sequence[int], epoch: int, step: int, part: int) -> Iterator[PatchBatch]:
        """One part of all samples that show objects; see ``Batches``."""
        seed = int(random_of(self._recipe, epoch, step, part).integers(2**62))
        yield from self._batch(self._patches.varied(numbers, epoch - 1), seed)

    def validation(self, number: int) -> Iterator[PatchBatch]:
        """The middle of a sample as it is."""
        yield from self._batch([self._patches.plain(number)], 0)

    def _batch(self, samples: Sequence[Sample], seed: int) -> Iterator[PatchBatch]:
        truths = [truth_of(sample, self._recipe.classes, self._recipe.min_object, self._device) for sample in samples]
        shown = [number for number, truth in enumerate(truths) if len(truth.labels)]
        if shown:
            pixels = to_tensor(np.stack([samples[number].high.image for number in shown]), self._device)
            yield PatchBatch(pixels, tuple(truths[number] for number in shown), seed)


def truth_of(sample: Sample, classes: Sequence[str], smallest: int, device: torch.device) -> Truth:
    """What is known of a sample's high patch.

    Args:
        sample: the sample.
        classes: names of classes 1, 2, …; none: all objects are of class 1. Objects of others are background.
        smallest: px; of smaller objects, and of those cut down to that by the patch's edge, nothing is known.
        device: of the result.
    """
    picture = sample.high
    # background and all objects by the number of their label
    named = [classes.index(name) + 1 if name in classes else 0 for name in sample.classes]
    class_of = np.array([0, *(named if classes else [1] * len(sample.classes))])
    present = np.unique(picture.labels[picture.labels > 0])
    wanted = present[class_of[present] > 0]
    large = objects_of(picture, smallest)
    numbers = wanted[np.isin(wanted, large)]
    known = picture.known & ~np.isin(picture.labels, np.setdiff1d(wanted, large))
    masks = (picture.labels == numbers[:, None, None]) & picture.known
    return Truth(
        torch.from_numpy(bounding_boxes(masks)).to(device),
        torch.from_numpy(class_of[numbers].astype(np.int64)).to(device),
        torch.from_numpy(masks).to(device),
        torch.from_numpy(known).to(device),
    )
