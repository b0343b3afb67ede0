"""Annotated objects as regions that the head of Open-Vocabulary SAM is asked to name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from wsi_pipeline.models.ov_sam.region_features import region_features
from wsi_pipeline.models.roles import Regions
from wsi_pipeline.spread import spread
from wsi_pipeline.training.batches import Encode, objects_of
from wsi_pipeline.training.data.augment import Augmentation, AugmentedPairs
from wsi_pipeline.training.data.samples import Picture, Sample
from wsi_pipeline.training.data.warp import STILL
from wsi_pipeline.training.epochs import Patches, random_of
from wsi_pipeline.training.recipe import OvSamRecipe
from wsi_pipeline.training.sources import TRAIN, Joined

_KEPT = 4_000
"""Pairs of patches whose features stay in memory, 80 kB an object; their maps would take 14 MB."""

_MEASURED = 32
"""Samples whose features tell the scale of all."""


class RegionBatch(NamedTuple):
    """N objects.

    Attributes:
        features: (N, C, g, g) float32, see ``region_features``.
        classes: (N,) int64 number of the class of each.
        seed: of what a training step draws.
        share: of its batch.
    """

    features: Tensor
    classes: Tensor
    seed: int = 0
    share: float = 1.0


class RegionBatches:
    """Makes batches of samples; objects of classes that the recipe does not name are left out.

    Args:
        recipe: how; names the classes.
        source: the samples.
        encode: gives the embeddings.
        device: where batches are wanted.
    """

    def __init__(self, recipe: OvSamRecipe, source: Joined, encode: Encode, device: torch.device) -> None:
        self._recipe, self._source, self._encode, self._device = recipe, source, encode, device
        self._patches = Patches(recipe, source)
        self._memory: dict[tuple[int, int, str], RegionBatch | None] = {}
        self._around_objects = Augmentation(
            self._patches.size, recipe.context_factor, warp=STILL, stain=None, on_object=1.0
        )

    def training(self, numbers: Sequence[int], epoch: int, step: int, part: int) -> Iterator[RegionBatch]:
        """One part of objects of all samples; see ``Batches``."""
        seed = int(random_of(self._recipe, epoch, step, part).integers(2**62))
        variant = (epoch - 1) % self._recipe.variants
        shown = [self._kept(number, variant, self._version) for number in numbers]
        parts = [one for one in shown if one is not None]
        if parts:
            yield RegionBatch(
                torch.cat([one.features for one in parts]), torch.cat([one.classes for one in parts]), seed
            )

    def validation(self, number: int) -> Iterator[RegionBatch]:
        """All objects around some of them, as they are; those that are seen from several places count as often."""
        shown = (self._kept(number, look, self._look) for look in range(self._recipe.looks))
        yield from (one for one in shown if one is not None)

    def first_seen(self) -> Iterator[Tensor]:
        """The features of objects as training sees them first, of samples from all over the data."""
        numbers = spread(self._source.numbers(TRAIN), _MEASURED)
        shown = (self._kept(number, 0, self._version) for number in numbers)
        yield from (one.features for one in shown if one is not None)

    def _kept(self, number: int, which: int, make: Callable[[int, int], RegionBatch | None]) -> RegionBatch | None:
        """What is made of a sample, made once as long as there is room."""
        key = number, which, make.__name__
        if key in self._memory:
            return self._memory[key]
        made = make(number, which)
        if len(self._memory) < _KEPT:
            self._memory[key] = made
        return made

    def _version(self, number: int, variant: int) -> RegionBatch | None:
        """Some objects of an augmented version of a sample; None where it shows none."""
        (sample,) = self._patches.varied([number], variant)
        random = np.random.default_rng((self._recipe.seed, variant, number))
        return self._seen(sample, random.permutation(self._objects(sample))[: self._recipe.objects])

    def _look(self, number: int, look: int) -> RegionBatch | None:
        """All objects around one of a sample as it is; None where there are none."""
        sample = AugmentedPairs(self._source, self._around_objects, self._recipe.seed, look)[number]
        return self._seen(sample, self._objects(sample))

    def _objects(self, sample: Sample) -> np.ndarray:
        """(N,) labels of the objects in sight that have a class."""
        wanted = [label for label, name in enumerate(sample.classes, start=1) if name in self._recipe.classes]
        return np.intersect1d(objects_of(sample.high, self._recipe.min_object), wanted)

    def _seen(self, sample: Sample, labels: np.ndarray) -> RegionBatch | None:
        """Objects of a pair of patches; None where there are none."""
        if not len(labels):
            return None
        factor = self._recipe.seen_factor
        high, low = self._encode(sample.high.image[None]), None
        if factor is not None:
            assert sample.low is not None
            low = self._encode(sample.low.image[None])
        regions = regions_of([sample.high], [labels])
        features = region_features(high, low, regions, size=self._patches.size, context_factor=factor)
        names = [self._recipe.classes.index(sample.classes[label - 1]) for label in labels]
        return RegionBatch(features.to(self._device), torch.tensor(names, device=self._device))


def regions_of(pictures: Sequence[Picture], chosen: Sequence[np.ndarray]) -> Regions:
    """Objects as regions, as far as they are known.

    Args:
        pictures: B high patches.
        chosen: labels of the objects wanted of each, all of them in sight.
    """
    index, boxes, masks = [], [], []
    for number, (picture, labels) in enumerate(zip(pictures, chosen, strict=True)):
        seen = np.where(picture.known, picture.labels, 0)
        places = ndimage.find_objects(seen)
        for label in labels:
            rows, columns = places[label - 1]
            index.append(number)
            boxes.append((columns.start, rows.start, columns.stop, rows.stop))
            masks.append(seen[rows, columns] == label)
    return Regions(np.array(index, np.int64), np.array(boxes, np.int64), masks)
