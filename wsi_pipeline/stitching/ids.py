"""Numbering every object of a slide, independent of how tiles were grouped into batches."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.segment.objects import ObjectBatch


def first_ids(tiles: np.ndarray, counts: np.ndarray, n_tiles: int) -> np.ndarray:
    """(n_tiles,) int64, the global id of the first object of each tile, 1 for the first object of the slide.

    Args:
        tiles: (K,) tile indices, each once.
        counts: (K,) objects found in each of them.
        n_tiles: tiles of the plan, kept or not.
    """
    count = np.zeros(n_tiles + 1, np.int64)
    count[np.asarray(tiles, np.int64) + 1] = counts
    return 1 + np.cumsum(count)[:-1]


def object_ids(batch: ObjectBatch, first: np.ndarray) -> np.ndarray:
    """(N,) int64 global ids of a batch's objects.

    Args:
        batch: objects, those of one tile in a row (``tile`` is ascending).
        first: what ``first_ids`` returned.
    """
    tile = batch.tile.astype(np.int64)
    place = np.arange(len(tile)) - np.searchsorted(tile, tile, side="left")
    return first[tile] + place
