"""Label pyramids over their slide: the masks of a run, once somebody has found them good enough to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.stitching.ngff import LabelName, MaskPyramid
from wsi_pipeline.tiling.plan import PatchPair, Tile, TilePlan
from wsi_pipeline.training.data.outlines import UNCLASSIFIED
from wsi_pipeline.training.data.slides import Annotated, FieldOfView, Origin, SlidePairs

SEARCH_LEVEL = 3
"""Level at which tiles are searched for objects: every eighth px along each side still hits a nucleus."""


def open_pyramid(
    path: Path | str, slide: Slide, field: FieldOfView | None = None, origin: Origin | None = None
) -> SlidePairs:
    """Training pairs side by side over everything that a ``masks.ome.zarr`` holds objects of.

    Args:
        path: the pyramid's folder.
        slide: the slide it was made from.
        field: how much of it a pair shows; ``mpp`` None is the pyramid's own.
        origin: what the files do not say.

    Raises:
        OutputError: no such pyramid.
        DatasetError: it is of another slide, or empty.
    """
    field, origin = field or FieldOfView(), origin or Origin()
    pyramid = MaskPyramid.open(Path(path))
    _check_slide(pyramid, slide)
    grid = pyramid.grid
    if field.mpp is not None:
        grid = PixelGrid.over(grid.region, slide.info.resolution, field.mpp)
    tiles = _tiles_with_objects(pyramid, grid, field.size)
    if not tiles:
        raise DatasetError("holds no objects", where=path, fix="Give the masks of a run that found some")
    names = [name for name, _ in pyramid.classes] or [UNCLASSIFIED]
    return SlidePairs(
        slide,
        [PatchPair.of_tile(tile, grid, field.context_factor) for tile in tiles],
        PyramidLabels(pyramid),
        [origin.info(slide, f"tile {tile.index}", names, grid.mpp) for tile in tiles],
    )


def _check_slide(pyramid: MaskPyramid, slide: Slide) -> None:
    _, _, right, bottom = pyramid.grid.region.bounds
    scale = pyramid.grid.to_level0
    # a grid ends at most one of its px beyond the slide
    fits = right <= slide.info.width + scale.sx and bottom <= slide.info.height + scale.sy
    if not fits or pyramid.resolution != slide.info.resolution:
        raise DatasetError(
            f"was not made from {slide.info.name}: size or µm per px differ",
            where=pyramid.path,
            fix="Give the slide of that run, with the same --mpp",
        )


def _tiles_with_objects(pyramid: MaskPyramid, grid: PixelGrid, size: int) -> list[Tile]:
    keep = np.ones(TilePlan.shape(grid, size, 0), bool)
    plan = TilePlan(grid, size, 0, keep, block=max(keep.shape))
    level = min(SEARCH_LEVEL, pyramid.n_levels - 1)
    to_level = Affine2D(2.0**-level, 2.0**-level).after(pyramid.grid.to_level0.inverse()).after(grid.to_level0)

    def has_objects(tile: Tile) -> bool:
        x0, y0, x1, y1 = to_level.after(Affine2D(tx=tile.x, ty=tile.y)).region(size, size).bounds
        left, top, right, bottom = (int(np.floor(x0)), int(np.floor(y0)), int(np.ceil(x1)), int(np.ceil(y1)))
        return bool(pyramid.read_labels("instance", left, top, right, bottom, level).any())

    return [tile for tile in plan.tiles() if has_objects(tile)]


class PyramidLabels:
    """Objects of a pyramid as an ``Annotation``; px are the nearest ones of level 0.

    Args:
        pyramid: the labels; all of its grid counts as annotated, nothing outside of it does.
    """

    def __init__(self, pyramid: MaskPyramid) -> None:
        self._pyramid = pyramid
        self._names = [UNCLASSIFIED, *(name for name, _ in pyramid.classes)]

    def on(self, to_level0: Affine2D, size: int) -> Annotated:
        """See ``Annotation``; ids are the run's own."""
        grid = self._pyramid.grid
        to_grid = grid.to_level0.inverse().after(to_level0)
        centres = to_grid.apply(np.repeat(np.arange(size)[:, None] + 0.5, 2, axis=1))
        columns, rows = np.floor(centres).astype(np.int64).T
        ids = self._nearest("instance", columns, rows).astype(np.int64)
        numbers, first = np.unique(ids, return_index=True)
        classes = self._nearest("class", columns, rows).ravel()[first]
        inside = ((rows >= 0) & (rows < grid.height))[:, None] & ((columns >= 0) & (columns < grid.width))
        names = [self._names[number] for number in classes]
        return Annotated(ids, inside, dict(zip(numbers.tolist(), names, strict=True)))

    def _nearest(self, name: LabelName, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        x0, y0 = int(columns[0]), int(rows[0])
        block = self._pyramid.read_labels(name, x0, y0, int(columns[-1]) + 1, int(rows[-1]) + 1)
        return block[np.ix_(rows - y0, columns - x0)]
