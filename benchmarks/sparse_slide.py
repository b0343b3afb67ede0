"""A real slide of any size in a file of a few hundred kilobytes: a tiled pyramidal BigTIFF whose tiles are one tile.

Every tile on tissue points at the same JPEG bytes, and tiles off the tissue are not stored at all, which readers show
as white. So a slide of 100 000 x 100 000 px with a million nuclei is written in no time, and reading it costs what
reading any JPEG slide costs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np

SPACING = 60
"""px between the middles of neighbouring nuclei before some are moved a little."""
TILE = 480
"""Side of the file's tiles, px; holds whole numbers of nuclei."""
SHRINKS = (1, 4, 16)
"""Level-0 px per px of each level."""
CELL = TILE * SHRINKS[-1]
"""Tissue is made of squares of this side, level-0 px, so that at every level a tile is all tissue or none."""
MPP = 0.5

_SLOTS = (TILE // SPACING) ** 2
_TISSUE, _NUCLEUS = (228, 190, 214), (92, 64, 140)
_QUALITY = 90


@dataclass(frozen=True, slots=True)
class SparseSlide:
    """What to write.

    Attributes:
        side: of the slide, px.
        cells: squares of ``CELL`` px along the side of the tissue.
        per_tile: nuclei of every ``TILE`` x ``TILE`` px of tissue, at most 64.
        phase: px; a nucleus lies near every ``phase + k * SPACING`` along both axes.
    """

    side: int
    cells: int
    per_tile: int
    phase: int

    @classmethod
    def holding(cls, objects: int, *, side: int, capacity: int, phase: int) -> SparseSlide:
        """A slide of at least ``objects`` nuclei, with tissue enough for ``capacity`` of them."""
        cells = -(-round((capacity * SPACING**2) ** 0.5) // CELL)
        if cells * CELL > side:
            raise ValueError(f"{capacity} nuclei do not fit on {side} x {side} px")
        per_tile = -(-objects * TILE**2 // (cells * CELL) ** 2)
        return cls(side, cells, per_tile, phase)

    @property
    def objects(self) -> int:
        """Nuclei on the slide; those cut by the border of the tissue count, too."""
        return self.per_tile * (self.cells * CELL // TILE) ** 2

    def write(self, path: Path) -> None:
        """Write the slide as a BigTIFF."""
        pattern = nuclei(self.per_tile, self.phase)
        with path.open("wb") as file:
            file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
            link = 8  # where the place of the next directory is to be written
            for shrink in SHRINKS:
                data = imagecodecs.jpeg8_encode(_shrunk(pattern, shrink), level=_QUALITY, subsampling="444")
                directory = _directory(
                    file.tell(), data, self._tiles_on_tissue(shrink), -(-self.side // shrink), shrink
                )
                file.write(directory.data)
                end = file.tell()
                file.seek(link)
                file.write(struct.pack("<Q", directory.offset))
                file.seek(end)
                link = directory.link

    def _tiles_on_tissue(self, shrink: int) -> np.ndarray:
        """(rows, cols) bool over the tiles of a level."""
        count = -(-self.side // (TILE * shrink))
        per_cell = CELL // (TILE * shrink)
        first = (self.side // CELL - self.cells) // 2 * per_cell
        along = np.zeros(count, bool)
        along[first : first + self.cells * per_cell] = True
        return along[:, None] & along


def nuclei(count: int, phase: int) -> np.ndarray:
    """(TILE, TILE, 3) uint8 that repeats seamlessly: ellipses of many shapes that do not touch, ``count`` of 64."""
    rng = np.random.default_rng(0)
    image = np.empty((TILE, TILE, 3), np.uint8)
    image[:] = _TISSUE
    y, x = np.mgrid[:TILE, :TILE]
    chosen = np.sort(rng.permutation(_SLOTS)[:count])
    shapes = rng.uniform((8, 8, 0, -4, -4), (20, 14, np.pi, 4, 4), (_SLOTS, 5))
    for slot in chosen.tolist():
        long, short, angle, jitter_x, jitter_y = shapes[slot]
        row, col = divmod(slot, TILE // SPACING)
        dx = _around(x - (phase + col * SPACING + jitter_x))
        dy = _around(y - (phase + row * SPACING + jitter_y))
        u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        image[(u / long) ** 2 + (v / short) ** 2 <= 1] = _NUCLEUS
    return image


def _around(distance: np.ndarray) -> np.ndarray:
    """The distance on a ring of ``TILE`` px."""
    return (distance + TILE / 2) % TILE - TILE / 2


def _shrunk(pattern: np.ndarray, shrink: int) -> np.ndarray:
    """A tile of a coarser level: the pattern in small, as often as it fits."""
    small = TILE // shrink
    means = pattern.reshape(small, shrink, small, shrink, 3).mean(axis=(1, 3))
    return np.tile(np.rint(means).astype(np.uint8), (shrink, shrink, 1))


@dataclass(frozen=True, slots=True)
class _Directory:
    """Bytes of one level, the place of its directory, and the place of the link to the next one."""

    data: bytes
    offset: int
    link: int


def _directory(start: int, tile: bytes, stored: np.ndarray, side: int, shrink: int) -> _Directory:
    """One level: the tile, where each tile lies, and the directory."""
    count = stored.size
    offsets = np.where(stored.ravel(), start, 0).astype("<u8").tobytes()
    counts = np.where(stored.ravel(), len(tile), 0).astype("<u8").tobytes()
    tables = start + len(tile)
    per_cm = struct.pack("<II", round(1e8 / MPP), 10_000 * shrink)
    short, long, long8, rational = 3, 4, 16, 5
    entries = [
        (254, long, 1, struct.pack("<I", int(shrink > 1))),
        (256, long, 1, struct.pack("<I", side)),
        (257, long, 1, struct.pack("<I", side)),
        (258, short, 3, struct.pack("<HHH", 8, 8, 8)),
        (259, short, 1, struct.pack("<H", 7)),  # JPEG
        (262, short, 1, struct.pack("<H", 6)),  # YCbCr
        (277, short, 1, struct.pack("<H", 3)),
        (282, rational, 1, per_cm),
        (283, rational, 1, per_cm),
        (284, short, 1, struct.pack("<H", 1)),
        (296, short, 1, struct.pack("<H", 3)),
        (322, short, 1, struct.pack("<H", TILE)),
        (323, short, 1, struct.pack("<H", TILE)),
        (324, long8, count, struct.pack("<Q", tables)),
        (325, long8, count, struct.pack("<Q", tables + len(offsets))),
    ]
    packed = b"".join(struct.pack("<HHQ", tag, kind, n) + value.ljust(8, b"\0") for tag, kind, n, value in entries)
    offset = tables + len(offsets) + len(counts)
    directory = struct.pack("<Q", len(entries)) + packed + struct.pack("<Q", 0)
    return _Directory(tile + offsets + counts + directory, offset, offset + len(directory) - 8)
