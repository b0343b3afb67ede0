"""Annotated tiles laid out as a run would lay out a slide; what the benchmarks of finding and of drawing share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.manifest import read_manifest
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.training.data.resample import look
from wsi_pipeline.training.data.samples import Picture, SampleInfo
from wsi_pipeline.training.data.tiles import MANIFEST, open_tiles
from wsi_pipeline.workflow import load_workflow

WORKFLOW = load_workflow("nuclei")
OVERLAP = round(WORKFLOW.tiling.overlap.px(WORKFLOW.mpp))
"""px that neighbouring patches share."""


class ListedTile(NamedTuple):
    """A row of a manifest.

    Attributes:
        number: of the row, from 0.
        line: of the file.
        info: what is known of the tile.
        dataset: where it is from.
        picture: pixels and labels.
    """

    number: int
    line: int
    info: SampleInfo
    dataset: str
    picture: Picture

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        """As a slide's; beyond the tile its mirror image is seen, as in training."""
        x, y = (np.arange(length) + 0.5 for length in size)
        points = to_level0.apply(np.stack(np.meshgrid(x, y), axis=-1))
        return look(self.picture, points, to_level0.sx, "reflect").image

    def plan(self, size: int, mpp: float) -> TilePlan:
        """Patches of ``size`` px over all of it, in one batch, as if its px measured ``mpp`` µm."""
        height, width = self.picture.labels.shape
        return layout(width, height, size, mpp=mpp)


def tiles_of(
    data: Path, split: str, *, object_class: str | None = None, groups: Collection[str] | None = None
) -> Iterator[ListedTile]:
    """The tiles of a split, of all classes and groups or of some.

    Raises:
        DatasetError: see ``open_tiles``; or the manifest has no column ``dataset``.
    """
    source = open_tiles(data)
    rows = read_manifest(data / MANIFEST, ("dataset",), error=DatasetError)
    for number, (info, (line, row)) in enumerate(zip(source.infos, rows, strict=True)):
        wanted = object_class in (None, *info.class_names) and (groups is None or info.group in groups)
        if info.split == split and wanted:
            yield ListedTile(number, line, info, row["dataset"], source[number].high)


def layout(width: int, height: int, size: int, batch: int | None = None, mpp: float = WORKFLOW.mpp) -> TilePlan:
    """The patches a run would lay over a slide of that size.

    Args:
        width, height: px.
        size: side of the patches, px.
        batch: rows and columns of patches in a batch; None for all in one.
        mpp: µm that px are taken to measure.
    """
    grid = PixelGrid(width, height, Affine2D(), mpp)
    shape = TilePlan.shape(grid, size, OVERLAP)
    return TilePlan(grid, size, OVERLAP, np.ones(shape, bool), batch or max(shape))
