"""A grid of overlapping square tiles over the tissue: computed, never stored.

Tiles are grouped into batches of neighbouring tiles (a batch is one task), so that a batch reads one compact
piece of the slide and everything about it follows from its number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.spread import spread


@dataclass(frozen=True, slots=True)
class Tile:
    """One square tile of the working grid.

    Attributes:
        row, col: its place in the grid of tiles.
        index: ``row * cols + col``, whether or not the tile is kept.
        x, y: its top-left px on the working grid; may be negative or reach past the grid, which is read as white.
        size: its side in px.
        core: ``x0, y0, x1, y1`` on the working grid; the cores of all tiles partition the grid.
    """

    row: int
    col: int
    index: int
    x: int
    y: int
    size: int
    core: tuple[int, int, int, int]


@dataclass(frozen=True)
class TilePlan:
    """Tiles of ``size`` px with at least ``overlap`` px shared between neighbours, over ``grid``.

    Attributes:
        grid: the working grid.
        size: tile side, px.
        overlap: px shared by neighbours; the tiles are spread evenly about the grid's middle.
        keep: (rows, cols) bool, tiles on tissue.
        block: tiles along the side of a batch.
    """

    grid: PixelGrid
    size: int
    overlap: int
    keep: np.ndarray
    block: int

    @property
    def stride(self) -> int:
        return self.size - self.overlap

    @staticmethod
    def shape(grid: PixelGrid, size: int, overlap: int) -> tuple[int, int]:
        """(rows, cols) of the tiles that cover ``grid``."""
        if not 0 <= overlap <= size // 2:
            raise ValueError(f"overlap {overlap} px must be between 0 and half the tile side {size}")
        stride = size - overlap

        def count(length: int) -> int:
            return max(1, math.ceil((length - overlap) / stride))

        return count(grid.height), count(grid.width)

    @property
    def rows(self) -> int:
        return int(self.keep.shape[0])

    @property
    def cols(self) -> int:
        return int(self.keep.shape[1])

    def _start(self, number: int, count: int, length: int) -> int:
        # The surplus of the last tile is shared by both ends, so that no side is all padding.
        covered = count * self.stride + self.overlap
        return number * self.stride - max(0, covered - length) // 2

    def _core(self, number: int, count: int, length: int) -> tuple[int, int]:
        start = self._start(number, count, length)
        low = 0 if number == 0 else start + self.overlap // 2
        high = length if number == count - 1 else start + self.stride + self.overlap // 2
        return min(max(low, 0), length), min(max(high, 0), length)

    def tile(self, row: int, col: int) -> Tile:
        """The tile at a place of the grid, kept or not."""
        x0, x1 = self._core(col, self.cols, self.grid.width)
        y0, y1 = self._core(row, self.rows, self.grid.height)
        return Tile(
            row=row,
            col=col,
            index=row * self.cols + col,
            x=self._start(col, self.cols, self.grid.width),
            y=self._start(row, self.rows, self.grid.height),
            size=self.size,
            core=(x0, y0, x1, y1),
        )

    @cached_property
    def _batches(self) -> np.ndarray:
        """(n, 2) block rows and columns of the batches that hold a tile, row-major."""
        rows, cols = math.ceil(self.rows / self.block), math.ceil(self.cols / self.block)
        padded = np.zeros((rows * self.block, cols * self.block), bool)
        padded[: self.rows, : self.cols] = self.keep
        used = padded.reshape(rows, self.block, cols, self.block).any(axis=(1, 3))
        return np.argwhere(used)

    @property
    def n_batches(self) -> int:
        return len(self._batches)

    def spread(self, most: int) -> list[Tile]:
        """Some of the kept tiles, at equal distances in their order row by row; all of them where they are few."""
        return [self.tile(int(row), int(col)) for row, col in spread(list(np.argwhere(self.keep)), most)]

    def __len__(self) -> int:
        """How many tiles are kept."""
        return int(self.keep.sum())

    def batch(self, number: int) -> list[Tile]:
        """The kept tiles of one batch, row-major."""
        row, col = (int(v) * self.block for v in self._batches[number])
        kept = np.argwhere(self.keep[row : row + self.block, col : col + self.block])
        return [self.tile(row + int(r), col + int(c)) for r, c in kept]

    def batches_of(self, tiles: np.ndarray) -> np.ndarray:
        """(N,) int64 numbers of the batches that hold kept tiles, given by their indices (N,)."""
        row, col = np.divmod(np.asarray(tiles, np.int64), self.cols)
        across = math.ceil(self.cols / self.block)
        return np.searchsorted(self._batches @ [across, 1], row // self.block * across + col // self.block)

    def batch_bounds(self, number: int) -> tuple[int, int, int, int]:
        """``x0, y0, x1, y1`` of everything the tiles of a batch can see, px of the working grid."""
        row, col = (int(v) * self.block for v in self._batches[number])
        first = self.tile(row, col)
        last = self.tile(min(row + self.block, self.rows) - 1, min(col + self.block, self.cols) - 1)
        return first.x, first.y, last.x + self.size, last.y + self.size

    def batches_meeting(self, x0: float, y0: float, x1: float, y1: float) -> list[int]:
        """Numbers of the batches that can see any part of a rectangle of the working grid, ascending."""
        left, top, right, bottom = self._all_bounds
        hit = (left < x1) & (right > x0) & (top < y1) & (bottom > y0)
        return [int(n) for n in np.flatnonzero(hit)]

    @cached_property
    def _all_bounds(self) -> np.ndarray:
        bounds = [self.batch_bounds(n) for n in range(self.n_batches)]
        return np.array(bounds, np.int64).reshape(-1, 4).T

    def tiles(self) -> Iterator[Tile]:
        """Every kept tile, batch by batch."""
        for number in range(self.n_batches):
            yield from self.batch(number)


@dataclass(frozen=True, slots=True)
class PatchPair:
    """Two square patches of ``size`` px with one centre: *high* at the working mpp, *low* sees farther.

    Attributes:
        high, low: affines from patch px to level-0 px.
        size: side of both patches, px.
        context_factor: ``c``; a point p of the high patch is at ``(p - S/2) / c + S/2`` in the low patch.
    """

    high: Affine2D
    low: Affine2D
    size: int
    context_factor: float

    @classmethod
    def around(cls, x: float, y: float, *, scale: tuple[float, float], size: int, context_factor: float) -> PatchPair:
        """The pair centred on level-0 point (x, y) whose high px measure ``scale`` level-0 px."""
        return cls.of_patch(Affine2D(*scale, x - scale[0] * size / 2, y - scale[1] * size / 2), size, context_factor)

    @classmethod
    def of_tile(cls, tile: Tile, grid: PixelGrid, context_factor: float) -> PatchPair:
        """The pair whose high patch is a tile of the working grid, pixel by pixel."""
        return cls.of_patch(grid.to_level0.shifted(tile.x, tile.y), tile.size, context_factor)

    @classmethod
    def of_patch(cls, high: Affine2D, size: int, context_factor: float) -> PatchPair:
        """The pair whose high patch maps to level 0 by ``high``."""
        # high px of the low patch's corner: the centre minus c times half a side
        corner = size / 2 * (1 - context_factor)
        low = high.after(Affine2D(context_factor, context_factor, corner, corner))
        return cls(high, low, size, context_factor)

    def resized(self, size: int) -> PatchPair:
        """The same fields in patches of ``size`` px."""
        share = self.size / size
        high = Affine2D(self.high.sx * share, self.high.sy * share, self.high.tx, self.high.ty)
        return self.of_patch(high, size, self.context_factor)

    def high_to_low(self, xy: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the high patch in px of the low patch."""
        half = self.size / 2
        return (np.asarray(xy, np.float64) - half) / self.context_factor + half
