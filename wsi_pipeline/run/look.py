"""A first look at a slide, for models that want to know what it looks like on the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsi_pipeline.geometry import PixelGrid
from wsi_pipeline.models.roles import SlideAware
from wsi_pipeline.segment.dense import is_blank
from wsi_pipeline.tiling.plan import PatchPair, Tile
from wsi_pipeline.tiling.read import GridReader, read_pairs


def look(
    model: SlideAware, slide: GridReader, grid: PixelGrid, tiles: Sequence[Tile], context_factor: float
) -> np.ndarray:
    """What a model keeps of the high patches of some tiles, float32, one row for each tile that shows something."""
    rows: list[np.ndarray] = []
    for tile in tiles:
        images = read_pairs(slide, [PatchPair.of_tile(tile, grid, context_factor)], low=False)
        if not is_blank(images.high).all():
            rows.append(model.look(images))
    return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
