"""Answers of any resolution, and outlines, as packed masks on the working grid, strip by strip.

A tissue outlined on a coarse patch may cover a gigapixel of the working grid: only its bits are ever held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.segment.components import BACKGROUND
from wsi_pipeline.segment.found import Bounds

STRIP_PX = 2**22
"""Px of a strip; a few floats each."""

Rows = Callable[[int, int], np.ndarray]
"""(first row, last row) of the working grid → (rows, width) bool."""


def logits_onto_grid(own: np.ndarray, to_grid: Affine2D, grid: PixelGrid) -> tuple[Bounds, np.ndarray] | None:
    """Resample mask logits to the working grid and keep what is above 0.

    Finer logits are averaged over each px of the grid, coarser ones interpolated between px centres; those of the
    grid's own resolution are taken as they are.

    Args:
        own: (h, w) float32 logits that cover the object with a px of background wherever it ends.
        to_grid: from their px to px of the working grid: a power of two and whole offsets.
        grid: the working grid; what lies outside is cut off.

    Returns:
        The mask's tight bounds and its packed bits, or None where no px is left.
    """
    if to_grid.sx < 1:
        own, to_grid = _averaged(own, to_grid)
    height, width = own.shape
    scale = round(to_grid.sx)
    left, top = round(to_grid.tx), round(to_grid.ty)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width * scale, grid.width), min(top + height * scale, grid.height)

    def rows(first: int, last: int) -> np.ndarray:
        y, x = np.arange(first, last) - top, np.arange(x0, x1) - left
        return (own[np.ix_(y, x)] if scale == 1 else _bilinear(own, (x + 0.5) / scale, (y + 0.5) / scale)) > 0

    return _pack(rows, (x0, y0, x1, y1))


def outline_onto_grid(outline: BaseGeometry, grid: PixelGrid) -> tuple[Bounds, np.ndarray] | None:
    """The px of the working grid whose centres an outline (level-0 px) holds; bounds and packed bits as above.

    An outline too small to hold a centre is the px that its middle lies in.
    """
    to_grid = grid.to_level0.inverse()
    (left, top), (right, bottom) = to_grid.apply(np.reshape(outline.bounds, (2, 2)))
    x0, y0 = max(int(np.floor(left)), 0), max(int(np.floor(top)), 0)
    x1, y1 = min(int(np.ceil(right)), grid.width), min(int(np.ceil(bottom)), grid.height)

    def rows(first: int, last: int) -> np.ndarray:
        return rasterise(outline, Affine2D(tx=-x0, ty=-first).after(to_grid), x1 - x0, last - first)

    packed = _pack(rows, (x0, y0, x1, y1))
    if packed is None:
        middle = outline.representative_point()
        x, y = (int(v) for v in np.floor(to_grid.apply(np.array([middle.x, middle.y]))))
        if 0 <= x < grid.width and 0 <= y < grid.height:
            return (x, y, x + 1, y + 1), np.packbits([True])
    return packed


def _averaged(own: np.ndarray, to_grid: Affine2D) -> tuple[np.ndarray, Affine2D]:
    """Finer logits averaged over the px of the grid that they lie in.

    Clipped first: one px of certain background must not outvote its neighbours.
    """
    factor = round(1 / to_grid.sx)
    x, y = round(to_grid.tx * factor), round(to_grid.ty * factor)  # in fine px
    left, top = x % factor, y % factor
    height, width = own.shape
    border = ((top, -(top + height) % factor), (left, -(left + width) % factor))
    padded = np.pad(np.clip(own, BACKGROUND, -BACKGROUND), border, constant_values=BACKGROUND)
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    return blocks.mean(axis=(1, 3)), Affine2D(tx=(x - left) // factor, ty=(y - top) // factor)


def enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    """A raster (h, w) with ``factor`` px for every one along both sides, interpolated between px centres."""
    height, width = values.shape
    return _bilinear(
        values, (np.arange(width * factor) + 0.5) / factor, (np.arange(height * factor) + 0.5) / factor
    ).astype(values.dtype)


def _bilinear(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values at the points of a raster (columns ``x``, rows ``y``, px corners integer); level beyond the border."""
    row, down = _between(y, values.shape[0])
    lines = values[row] * (1 - down)[:, None] + values[np.minimum(row + 1, len(values) - 1)] * down[:, None]
    column, right = _between(x, values.shape[1])
    return lines[:, column] * (1 - right) + lines[:, np.minimum(column + 1, values.shape[1] - 1)] * right


def _between(position: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    centre = np.clip(position - 0.5, 0, length - 1)
    first = np.floor(centre).astype(np.int64)
    return first, (centre - first).astype(np.float32)


def _pack(rows: Rows, bounds: Bounds) -> tuple[Bounds, np.ndarray] | None:
    """Tight bounds and packed bits of a mask that is made a strip at a time (twice, unless one strip holds it)."""
    x0, y0, x1, y1 = bounds
    if x1 <= x0 or y1 <= y0:
        return None
    step = max(8, STRIP_PX // (x1 - x0) // 8 * 8)
    if y1 - y0 <= step:
        whole = rows(y0, y1)
        tight = _tight([(y0, whole)], x0)
        return None if tight is None else (tight, np.packbits(_crop(whole, y0, x0, tight)))
    tight = _tight(_strips(rows, y0, y1, step), x0)
    if tight is None:
        return None
    # strips of a multiple of eight rows end on a byte, so that their bits join without shifting
    strips = _strips(rows, tight[1], tight[3], step)
    return tight, np.concatenate([np.packbits(_crop(strip, y, x0, tight)) for y, strip in strips])


def _strips(rows: Rows, first: int, last: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    for y in range(first, last, step):
        yield y, rows(y, min(y + step, last))


def _tight(strips: Iterator[tuple[int, np.ndarray]] | list[tuple[int, np.ndarray]], x0: int) -> Bounds | None:
    columns: np.ndarray | None = None
    used: list[int] = []
    for y, strip in strips:
        lines = np.flatnonzero(strip.any(axis=1))
        if len(lines):
            used += [y + int(lines[0]), y + int(lines[-1])]
            here = np.asarray(strip.any(axis=0))
            columns = here if columns is None else columns | here
    if columns is None:
        return None
    wide = np.flatnonzero(columns)
    return x0 + int(wide[0]), used[0], x0 + int(wide[-1]) + 1, used[-1] + 1


def _crop(strip: np.ndarray, y: int, x: int, to: Bounds) -> np.ndarray:
    """The part of a strip whose top-left is (x, y) that lies within bounds."""
    top, bottom = max(to[1] - y, 0), min(to[3] - y, len(strip))
    return strip[top:bottom, to[0] - x : to[2] - x]
