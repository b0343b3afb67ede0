"""Drawn scenes to learn from, each with the names of its objects or of its parts alone, and others to measure on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np

from benchmarks.nested_scenes import OBJECTS, PARTS, NestedScene, draw_nested_scene
from benchmarks.sam_clip.subjects import FIRST_TEST, Quarters
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.sources import TRAIN, VALIDATION, Joined


class NestedScenes:
    """Drawn scenes.

    Args:
        seeds: one for each.
        split: of all of them.
        told: names that are known of a scene, in turn; other objects on it are there without a name.
    """

    def __init__(self, seeds: Sequence[int], split: str, told: Sequence[Collection[str]]) -> None:
        self._seeds, self._told = seeds, told
        self.infos: tuple[SampleInfo, ...] = tuple(
            SampleInfo(f"scene {seed}", f"scene {seed}", split, tuple(sorted(self._names(index))), "drawn")
            for index, seed in enumerate(seeds)
        )

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, index: int) -> Sample:
        scene = _drawn(self._seeds[index])
        picture = Picture(scene.image, scene.labels, np.ones(scene.labels.shape, bool))
        names = tuple(name if name in self._names(index) else "" for name in scene.names)
        return Sample(self.infos[index], picture, names, parents=scene.parents)

    def _names(self, index: int) -> Collection[str]:
        return self._told[index % len(self._told)]


@cache
def _drawn(seed: int) -> NestedScene:
    return draw_nested_scene(seed)


def drawn_scenes(train: int, test: int) -> Joined:
    """So many scenes to learn from, each with names of objects or of parts, and others to measure on, in pieces of a
    patch and with all names."""
    learned = NestedScenes(range(train), TRAIN, (OBJECTS, PARTS))
    measured = NestedScenes(range(FIRST_TEST, FIRST_TEST + test), VALIDATION, ((*OBJECTS, *PARTS),))
    return Joined([learned, Quarters(measured, VALIDATION)], judged=False)
