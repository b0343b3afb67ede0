"""A raster of any scale and offset from one level of a slide."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.slides.pixels import WHITE

SCALE_TOLERANCE = 1e-8
"""A raster whose scale differs less from the level's is the level's; over a whole slide it drifts 0.002 px."""

OFFSET_TOLERANCE = 1e-3
"""px: a raster that lies less than this beside the level's pixels is copied, not resampled."""

BLOCK = 128
"""px: side of the blocks that resampled rasters are made of; a compromise between calls and waste."""

MAX_SOURCE_SIDE = 4096
"""Level px: blocks of rasters that shrink more than 32 times are smaller, so that they need no more than this."""

PHASE_STEPS = 2**20
"""Steps of a raster's offset within one of its pixels; finer ones are rounding noise."""

ReadWindow = Callable[[int, int, int, int], np.ndarray]


def sample(read: ReadWindow, level_size: tuple[int, int], to_level: Affine2D, size: tuple[int, int]) -> np.ndarray:
    """Read a raster.

    A pixel's value depends on where it lies, not on the raster it is asked for in: parts of a raster are the crops
    of the whole, bit by bit. For that, resampling goes block by block on a lattice anchored at the level's corner
    (a filter's fixed-point weights depend on the window they are computed for). So memory is bounded, too.

    Args:
        read: reads ``x, y, width, height`` px inside the level as (h, w, 3) uint8.
        level_size: (width, height) px of the level; all outside is white.
        to_level: maps pixel corners of the raster to px of the level.
        size: (width, height) px of the raster.

    Returns:
        (height, width, 3) uint8: a copy of level pixels where the raster falls on them, else linear
        interpolation whose support grows with the shrink factor, so that shrinking averages.
    """
    width, height = size
    if _falls_on_pixels(to_level):
        return read_padded(read, level_size, round(to_level.tx), round(to_level.ty), width, height)
    (left, phase_x), (top, phase_y) = _place(to_level.tx / to_level.sx), _place(to_level.ty / to_level.sy)
    lattice = Affine2D(to_level.sx, to_level.sy, phase_x * to_level.sx, phase_y * to_level.sy)
    block_width, block_height = _block_side(to_level.sx), _block_side(to_level.sy)
    out = np.empty((height, width, 3), np.uint8)
    for y in range(top // block_height * block_height, top + height, block_height):
        y0, y1 = max(y, top), min(y + block_height, top + height)
        for x in range(left // block_width * block_width, left + width, block_width):
            x0, x1 = max(x, left), min(x + block_width, left + width)
            block = _resize(read, level_size, lattice.shifted(x, y), (block_width, block_height))
            out[y0 - top : y1 - top, x0 - left : x1 - left] = block[y0 - y : y1 - y, x0 - x : x1 - x]
    return out


def read_padded(read: ReadWindow, level_size: tuple[int, int], x: int, y: int, width: int, height: int) -> np.ndarray:
    """A window that may reach outside the level, where it is white."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + width, level_size[0]), min(y + height, level_size[1])
    if (x0, y0, x1, y1) == (x, y, x + width, y + height):
        return read(x, y, width, height)
    canvas = np.full((height, width, 3), WHITE, np.uint8)
    if x0 < x1 and y0 < y1:
        canvas[y0 - y : y1 - y, x0 - x : x1 - x] = read(x0, y0, x1 - x0, y1 - y0)
    return canvas


def _falls_on_pixels(to_level: Affine2D) -> bool:
    scale = max(abs(to_level.sx - 1), abs(to_level.sy - 1))
    offset = max(abs(to_level.tx - round(to_level.tx)), abs(to_level.ty - round(to_level.ty)))
    return scale < SCALE_TOLERANCE and offset < OFFSET_TOLERANCE


def _place(offset: float) -> tuple[int, float]:
    """A raster's offset, in its own px, as a whole number of px on the lattice and the lattice's phase."""
    steps = round(offset * PHASE_STEPS)
    return steps // PHASE_STEPS, steps % PHASE_STEPS / PHASE_STEPS


def _block_side(scale: float) -> int:
    return max(1, min(BLOCK, int(MAX_SOURCE_SIDE / scale)))


def _resize(read: ReadWindow, level_size: tuple[int, int], to_level: Affine2D, size: tuple[int, int]) -> np.ndarray:
    """One block, (h, w, 3) uint8, from the level pixels it covers and those around that the filter sees."""
    from PIL import Image

    x0, y0, x1, y1 = to_level.region(*size).bounds
    margin_x, margin_y = math.ceil(max(1.0, to_level.sx)) + 1, math.ceil(max(1.0, to_level.sy)) + 1
    x, y = math.floor(x0) - margin_x, math.floor(y0) - margin_y
    width, height = math.ceil(x1) + margin_x - x, math.ceil(y1) + margin_y - y
    if x >= level_size[0] or y >= level_size[1] or x + width <= 0 or y + height <= 0:
        return np.full((size[1], size[0], 3), WHITE, np.uint8)
    source = Image.fromarray(np.ascontiguousarray(read_padded(read, level_size, x, y, width, height)))
    # Pillow's box may lie between pixels, and pixels around the box take part in the filter.
    resized = source.resize(size, Image.Resampling.BILINEAR, box=(x0 - x, y0 - y, x1 - x, y1 - y))
    return np.asarray(resized)
