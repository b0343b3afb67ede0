"""The published ensemble: a frozen network of images and words beside the head, for classes that it was never shown.

No weights of a CLIP are here. A small network that learned all classes from other drawn tiles plays the one that has
seen the web, in the way the recogniser on a user's CLIP asks it: feature-crop, then ``ensemble.fuse``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.naming.objects import Objects, in_sight, pairs_of
from benchmarks.naming.recognition import held_out
from benchmarks.naming.sources import Drawn
from benchmarks.sam_clip.subjects import Subject
from benchmarks.sam_clip.teacher import Teacher, taught
from wsi_pipeline.models.ov_sam.baselines import SeenImages, crop_map
from wsi_pipeline.models.ov_sam.ensemble import fuse
from wsi_pipeline.models.ov_sam.head import NO_CLASS, class_logits
from wsi_pipeline.models.ov_sam.recogniser import large_enough
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.text import class_vectors
from wsi_pipeline.training.ov_sam_batches import regions_of
from wsi_pipeline.training.recipe import OvSamRecipe
from wsi_pipeline.training.sources import TRAIN, Joined

TILES, FIRST, STEPS = 48, 1000, 400
"""Drawn tiles that the network learns from, the seed of the first, and steps of its training."""
HEAD, NETWORK, ENSEMBLE = "region head", "network", "ensemble"


class MapTeacher(Teacher):
    """A teacher that can be asked about parts of images, too; plays ``MapEncoder``."""

    pool_grid: int | None = 4
    stride = 16

    @torch.no_grad()
    def encode_map(self, images: np.ndarray) -> Tensor:
        """See ``MapEncoder``; images keep their size."""
        seen: Tensor = self.layers(to_tensor(images, torch.device("cpu")) / 127.5 - 1)
        return seen

    @torch.no_grad()
    def encode_pooled(self, pooled: Tensor) -> Tensor:
        """See ``MapEncoder``."""
        return F.normalize(self.projection(torch.cat([pooled.mean((2, 3)), pooled.amax((2, 3))], dim=1)), dim=1)


class Opinion(NamedTuple):
    """What a network says of N regions.

    Attributes:
        logits: (N, K + 1), the last column being "no class".
        seen: (N,) bool, whether a region is large enough for it to be seen.
    """

    logits: Tensor
    seen: Tensor


def taught_on_others(recipe: OvSamRecipe, zoom: float) -> MapTeacher:
    """A network that learned all classes of the recipe from drawn tiles that nothing else uses."""
    source = Joined([Drawn(TILES, 0, first=FIRST)], judged=False)
    samples = list(pairs_of(recipe, source, source.numbers(TRAIN), zoom=zoom))
    state = taught(Subject("other drawn tiles", recipe.classes, source), samples, STEPS)
    return MapTeacher.of(recipe.classes, state)


@torch.inference_mode()
def opinion_of(
    teacher: MapTeacher, recipe: OvSamRecipe, source: Joined, numbers: Sequence[int], *, zoom: float
) -> Opinion:
    """What a network says of the objects of ``asked_objects``, all of them and in their order."""
    words, vectors, seen = class_vectors(teacher, recipe.vocabulary), [], []
    for sample, labels in in_sight(pairs_of(recipe, source, numbers, zoom=zoom), recipe, most=None):
        image, regions = sample.high.image, regions_of([sample.high], [labels])
        vectors.append(teacher.encode_pooled(crop_map(teacher, _seen(teacher, image), regions)))
        seen.append(large_enough(regions, teacher.stride))
    return Opinion(class_logits(torch.cat(vectors), words), torch.from_numpy(np.concatenate(seen)))


def together(scores: np.ndarray, opinion: Opinion, names: Sequence[str], name: str) -> np.ndarray:
    """(N, K) logarithms of the ensemble.

    Args:
        scores: (N, K) logits of a head that was not shown ``name``.
        opinion: on the same regions.
        names: the K classes.
        name: the one that is new to the head.
    """
    head = F.pad(torch.from_numpy(scores), (0, 1), value=NO_CLASS)
    base = [number for number, one in enumerate(names) if one != name]
    fused: np.ndarray = fuse(head, opinion.logits, base=base, valid=opinion.seen)[:, :-1].numpy()
    return fused


def beside(
    scores: np.ndarray, opinion: Opinion, recipe: OvSamRecipe, name: str, objects: Objects
) -> dict[str, dict[str, float]]:
    """How well head, network and both of them together know a class that the head was not shown."""
    said = {
        HEAD: scores,
        NETWORK: opinion.logits[:, :-1].numpy(),
        ENSEMBLE: together(scores, opinion, recipe.classes, name),
    }
    return {way: held_out(one, recipe.classes, name, objects) for way, one in said.items()}


def _seen(teacher: MapTeacher, image: np.ndarray) -> SeenImages:
    return SeenImages(teacher.encode_map(image[None]), len(image))
