"""Objects as everybody who names them sees them: the encoder's features, and a few plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CHANNELS
from wsi_pipeline.models.ov_sam.region_features import region_features
from wsi_pipeline.models.roles import Regions
from wsi_pipeline.spread import spread
from wsi_pipeline.training.batches import Encode, objects_of
from wsi_pipeline.training.data.augment import Augmentation, AugmentedPairs
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.data.warp import STILL
from wsi_pipeline.training.epochs import Patches
from wsi_pipeline.training.ov_sam_batches import regions_of
from wsi_pipeline.training.recipe import OvSamRecipe
from wsi_pipeline.training.sources import Joined


class Objects(NamedTuple):
    """N objects.

    Attributes:
        features: (N, C, g, g) float32, what the region head is given.
        means: (N, 256 + E) float32, both maps of the high patch under the mask.
        colours: (N, 6) mean and standard deviation of red, green and blue under the mask.
        sizes: (N, 3) logarithms of area, width and height, px of the patch.
        tiles: (N, 6) mean and standard deviation of red, green and blue of the whole patch, whatever is asked about.
        names: (N,) of their classes.
        groups: (N,) patient, field or tile.
    """

    features: Tensor
    means: np.ndarray
    colours: np.ndarray
    sizes: np.ndarray
    tiles: np.ndarray
    names: np.ndarray
    groups: np.ndarray

    @classmethod
    def joined(cls, parts: Iterable[Objects]) -> Objects:
        features, *others = zip(*parts, strict=True)
        return cls(torch.cat(features), *map(np.concatenate, others))

    def take(self, rows: np.ndarray) -> Objects:
        """Some of them, by number or as (N,) bool."""
        return Objects(self.features[torch.from_numpy(rows)], *(part[rows] for part in self[1:]))


def training_objects(recipe: OvSamRecipe, source: Joined, numbers: Sequence[int], encode: Encode) -> Objects:
    """Objects of the patches that a head of the recipe is trained on, as many of each as it sees in a step."""
    patches = Patches(recipe, source)
    samples = (patches.varied([number], variant)[0] for variant in range(recipe.variants) for number in numbers)
    return Objects.joined(_seen(samples, recipe, encode, most=recipe.objects))


def asked_objects(
    recipe: OvSamRecipe, source: Joined, numbers: Sequence[int], encode: Encode, *, zoom: float, most: int | None
) -> Objects:
    """The objects in the middle of samples as they are.

    Args:
        recipe: names the classes, and says what a pair is.
        source: the samples.
        numbers: of those that are asked about.
        encode: gives the embeddings.
        zoom: px of the patch per px of the sample.
        most: objects of a sample, evenly spread; None for all.
    """
    return Objects.joined(_seen(pairs_of(recipe, source, numbers, zoom=zoom), recipe, encode, most=most))


def pairs_of(recipe: OvSamRecipe, source: Joined, numbers: Sequence[int], *, zoom: float) -> Iterator[Sample]:
    """The middles of samples as they are, with ``zoom`` px of the patch per px of the sample."""
    plain = Augmentation.none(Patches(recipe, source).size, recipe.context_factor)
    pairs = AugmentedPairs(source, replace(plain, warp=replace(STILL, zoom=(zoom, zoom))), recipe.seed)
    return (pairs[number] for number in numbers)


def in_sight(
    samples: Iterable[Sample], recipe: OvSamRecipe, *, most: int | None
) -> Iterator[tuple[Sample, np.ndarray]]:
    """Samples that show objects of the recipe's classes, and the labels of at most so many of these, evenly spread."""
    for sample in samples:
        labels = [
            label
            for label in objects_of(sample.high, recipe.min_object).tolist()
            if sample.classes[label - 1] in recipe.classes
        ]
        if labels:
            yield sample, np.array(spread(labels, most))


def _seen(samples: Iterable[Sample], recipe: OvSamRecipe, encode: Encode, *, most: int | None) -> Iterator[Objects]:
    return (_described(sample, labels, recipe, encode) for sample, labels in in_sight(samples, recipe, most=most))


def _described(sample: Sample, labels: np.ndarray, recipe: OvSamRecipe, encode: Encode) -> Objects:
    assert sample.low is not None
    image, regions = sample.high.image, regions_of([sample.high], [labels])
    high = encode(image[None])
    low = encode(sample.low.image[None]) if recipe.low_patch else None
    features = region_features(high, low, regions, size=len(image), context_factor=recipe.seen_factor)
    inside = [image[y0:y1, x0:x1][mask] for (x0, y0, x1, y1), mask in zip(regions.boxes, regions.masks, strict=True)]
    count = len(labels)
    return Objects(
        features,
        features[:, -_under_mask(high) :, 0, 0].numpy(),
        np.stack([_colour(px) for px in inside]),
        _sizes(regions),
        np.tile(_colour(image.reshape(-1, 3)), (count, 1)),
        np.array([sample.classes[label - 1] for label in labels]),
        np.array([sample.info.group] * count),
    )


def _under_mask(high: EncoderOutput) -> int:
    """Channels at the end of the features that are means under the mask."""
    return CHANNELS + high.early.shape[-1]


def _colour(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


def _sizes(regions: Regions) -> np.ndarray:
    area = [mask.sum() for mask in regions.masks]
    return np.log(np.column_stack([area, regions.boxes[:, 2:] - regions.boxes[:, :2]]).astype(float))
