"""What is learned from and measured on: drawn scenes, or annotated tiles; validation tiles in pieces of one patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.scenes import CLASSES, Scene, draw_scene
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo, SampleSource
from wsi_pipeline.training.data.tiles import open_tiles
from wsi_pipeline.training.sources import TRAIN, VALIDATION, Joined

PATCH = 256
"""Side of a patch of LiteMedSAM, px."""
COUNTS = {"glands": (0, 4), "aggregates": (0, 3), "vacuoles": (0, 4)}
"""Fewest and most of each on a scene."""
FIRST_TEST = 10_000
"""Seed of the first scene to measure on."""
LEAST = 0.03
"""Share of a view that objects have to cover for it to show more than the background."""
REGIONS = ("nucleus", "benign gland", "tumour region")


class Subject(NamedTuple):
    """A set of samples and the classes on them.

    Attributes:
        name: for the page.
        classes: the K classes, the last one for what is none of the others.
        source: samples to learn from, and to measure on.
    """

    name: str
    classes: tuple[str, ...]
    source: Joined

    @property
    def background(self) -> str:
        return self.classes[-1]

    def test_samples(self) -> list[Sample]:
        return [self.source[number] for number in self.source.numbers(VALIDATION)]


class Scenes:
    """Drawn scenes.

    Args:
        seeds: one for each.
        split: of all of them.
    """

    def __init__(self, seeds: Sequence[int], split: str) -> None:
        self._seeds = seeds
        self.infos: tuple[SampleInfo, ...] = tuple(
            SampleInfo(f"scene {seed}", f"scene {seed}", split, tuple(sorted(CLASSES)), "drawn") for seed in seeds
        )

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, index: int) -> Sample:
        scene = _drawn(self._seeds[index])
        picture = Picture(scene.image, scene.labels, np.ones(scene.labels.shape, bool))
        return Sample(self.infos[index], picture, scene.classes)


@cache
def _drawn(seed: int) -> Scene:
    return draw_scene(seed, **COUNTS)


class Quarters:
    """The samples of a split in pieces of one patch each, without what is left at the edges.

    Args:
        source: samples of at least a patch.
        split: which of them.
    """

    def __init__(self, source: SampleSource, split: str) -> None:
        self._places = [
            (sample, x, y)
            for sample in (source[number] for number, info in enumerate(source.infos) if info.split == split)
            for y in range(0, sample.high.labels.shape[0] - PATCH + 1, PATCH)
            for x in range(0, sample.high.labels.shape[1] - PATCH + 1, PATCH)
        ]
        self.infos: tuple[SampleInfo, ...] = tuple(
            replace(sample.info, source_id=f"{sample.info.source_id} at {x}, {y}") for sample, x, y in self._places
        )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        sample, x, y = self._places[index]
        window = slice(y, y + PATCH), slice(x, x + PATCH)
        picture = Picture(*(part[window] for part in (sample.high.image, sample.high.labels, sample.high.known)))
        return Sample(self.infos[index], picture, sample.classes, parents=sample.parents)


class OfSplit:
    """The samples of a split alone.

    Args:
        source: has them.
        split: which.
    """

    def __init__(self, source: SampleSource, split: str) -> None:
        self._source = source
        self._numbers = [number for number, info in enumerate(source.infos) if info.split == split]
        self.infos: tuple[SampleInfo, ...] = tuple(source.infos[number] for number in self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Sample:
        return self._source[self._numbers[index]]


def drawn_scenes(train: int, test: int) -> Subject:
    """So many scenes to learn from, and others to measure on."""
    learned = Scenes(range(train), TRAIN)
    measured = Scenes(range(FIRST_TEST, FIRST_TEST + test), VALIDATION)
    return Subject("drawn scenes", (*CLASSES, "stroma"), Joined([learned, Quarters(measured, VALIDATION)]))


def annotated_tiles(data: Path) -> Subject:
    """The tiles of a folder with a manifest.

    Raises:
        DatasetError: see ``open_tiles``.
    """
    tiles = open_tiles(data)
    joined = Joined([OfSplit(tiles, TRAIN), Quarters(tiles, VALIDATION)])
    return Subject("annotated tiles", (*REGIONS, "other tissue"), joined)


def class_map(sample: Sample, classes: Sequence[str]) -> np.ndarray:
    """(H, W) int64 number of the class of each px, the last one where there is no object."""
    last = len(classes) - 1
    numbers = [classes.index(name) if name in classes else last for name in sample.classes]
    found: np.ndarray = np.array([last, *numbers])[sample.high.labels]
    return found


def shares(seen: np.ndarray, count: int) -> np.ndarray:
    """(K,) float64 what a view (h, w) of a class map shows: shares of the objects' px, or the last class alone."""
    areas = np.bincount(seen.ravel(), minlength=count)[:count].astype(float)
    objects = areas[:-1].sum()
    if objects < LEAST * seen.size:
        return np.eye(count)[-1]
    areas[-1] = 0
    return areas / objects
