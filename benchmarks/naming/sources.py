"""Samples to train on and to ask about: drawn tiles, and real ones in other splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from benchmarks.scenes import CLASSES, draw_scene
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo, SampleSource
from wsi_pipeline.training.sources import TRAIN, VALIDATION

STROMA = "stroma"
NAMES = (*CLASSES, STROMA)
_DISCS, _RADII = 3, (25, 50)
"""Places of stroma that are asked about on a drawn tile, and their radii, px."""


class Drawn:
    """Drawn tiles with some discs of stroma; a source of samples.

    Args:
        train, val: how many of each.
        first: seed of the first one; others draw other tiles.
    """

    def __init__(self, train: int, val: int, *, first: int = 0) -> None:
        splits = [TRAIN] * train + [VALIDATION] * val
        self._first = first
        self.infos = tuple(
            SampleInfo(f"drawn {seed}", f"seed {seed}", split, NAMES, "CC0-1.0")
            for seed, split in enumerate(splits, first)
        )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        seed = self._first + index
        scene = draw_scene(seed)
        labels, discs = _with_stroma(scene.labels, np.random.default_rng((seed, 1)))
        picture = Picture(scene.image, labels, np.ones(labels.shape, bool))
        return Sample(self.infos[index], picture, (*scene.classes, *[STROMA] * discs))


class Otherwise:
    """The samples of a source, told otherwise; they keep their numbers, and with them their augmentation.

    Args:
        source: the samples.
        infos: what to say of them instead.
        classes: gives the classes of a sample's objects instead, by number and classes; None leaves them.
    """

    def __init__(
        self,
        source: SampleSource,
        infos: Sequence[SampleInfo],
        classes: Callable[[int, tuple[str, ...]], tuple[str, ...]] | None = None,
    ) -> None:
        self._source, self.infos, self._classes = source, tuple(infos), classes

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        sample = replace(self._source[index], info=self.infos[index])
        return sample if self._classes is None else replace(sample, classes=self._classes(index, sample.classes))


def with_shuffled_names(source: SampleSource, names: Sequence[str]) -> Otherwise:
    """Every object of the training tiles gets the name of a class at random: the words say nothing any more."""

    def shuffled(number: int, classes: tuple[str, ...]) -> tuple[str, ...]:
        if source.infos[number].split != TRAIN:
            return classes
        return tuple(np.random.default_rng((number, 2)).choice(names, len(classes)).tolist())

    infos = [replace(info, class_names=tuple(names)) for info in source.infos]
    return Otherwise(source, infos, shuffled)


def _with_stroma(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Labels with discs where nothing was, and how many there are."""
    labels, first = labels.copy(), labels.max()
    y, x = np.ogrid[: labels.shape[0], : labels.shape[1]]
    for radius in rng.uniform(*_RADII, _DISCS):
        free = np.argwhere(ndimage.distance_transform_edt(np.pad(labels == 0, 1))[1:-1, 1:-1] > radius)
        if len(free):
            row, column = rng.choice(free)
            labels[np.hypot(y - row, x - column) < radius - 1] = labels.max() + 1
    return labels, int(labels.max() - first)
