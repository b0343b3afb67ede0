"""Annotated tiles as small slides that a dense run could read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tiles import layout, tiles_of
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.training.data.resample import look
from wsi_pipeline.training.data.samples import Picture


@dataclass(frozen=True, slots=True)
class AnnotatedTile:
    """A tile and what is known of it.

    Attributes:
        name: of its source.
        picture: pixels and labels.
        dataset: where it is from.
        group: patient or field.
    """

    name: str
    picture: Picture
    dataset: str
    group: str

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        """As a slide's; beyond the tile its mirror image is seen, as in training."""
        x, y = (np.arange(length) + 0.5 for length in size)
        points = to_level0.apply(np.stack(np.meshgrid(x, y), axis=-1))
        return look(self.picture, points, to_level0.sx, "reflect").image

    def plan(self, size: int, mpp: float) -> TilePlan:
        """Patches of ``size`` px over all of it, in one batch, as if its px measured ``mpp`` µm."""
        height, width = self.picture.labels.shape
        return layout(width, height, size, mpp=mpp)


def read_tiles(
    data: Path, split: str, *, object_class: str = "nucleus", groups: Collection[str] | None = None
) -> Iterator[AnnotatedTile]:
    """Tiles of a split and class, of all groups or of some.

    Raises:
        DatasetError: see ``tiles_of``.
    """
    for one in tiles_of(data, split):
        if object_class in one.info.class_names and (groups is None or one.info.group in groups):
            yield AnnotatedTile(one.info.source_id, one.picture, one.dataset, one.info.group)
