"""Decoded chunks of a level, kept while they are likely to be asked for again.

Overlapping tiles share chunks; without a cache each chunk would be decoded once per tile that touches it.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache

import numpy as np

CACHE_BYTES = 128 * 2**20
"""Decoded chunks kept by one process, over all its open slides."""

_owners = itertools.count()


def new_owner() -> int:
    """A number that tells one reader's chunks from another's."""
    return next(_owners)


class ChunkCache:
    """The most recently used arrays, up to ``capacity`` bytes; thread-safe."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[tuple[Hashable, ...], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, key: tuple[Hashable, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of ``key``, made if it is not there; read-only, as it is shared.

        The first item of ``key`` is the owner. An array larger than the whole cache is returned and not kept.
        """
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found
        # Made outside the lock, so that threads decode side by side; two may make the same chunk, rarely.
        made = make()
        made.flags.writeable = False
        with self._lock:
            if key not in self._entries and made.nbytes <= self.capacity:
                self._entries[key] = made
                self._bytes += made.nbytes
                while self._bytes > self.capacity:
                    self._bytes -= self._entries.popitem(last=False)[1].nbytes
        return made

    def forget(self, owner: int) -> None:
        """Drop every chunk of one reader."""
        with self._lock:
            for key in [k for k in self._entries if k[0] == owner]:
                self._bytes -= self._entries.pop(key).nbytes


@cache
def shared_cache() -> ChunkCache:
    """The cache of this process."""
    return ChunkCache(CACHE_BYTES)


def read_through(
    chunk_size: tuple[int, int],
    window: tuple[int, int, int, int],
    chunk: Callable[[int, int], np.ndarray],
) -> np.ndarray:
    """Put a window together from chunks.

    Args:
        chunk_size: (width, height) px of the chunk lattice, which starts at the level's corner.
        window: ``x, y, width, height`` px, inside the level.
        chunk: gives the (h, w, 3) uint8 chunk of a row and column; chunks at the level's end may be cut.

    Returns:
        (height, width, 3) uint8, a copy.
    """
    (cw, ch), (x, y, width, height) = chunk_size, window
    out = np.empty((height, width, 3), np.uint8)
    for row in range(y // ch, (y + height - 1) // ch + 1):
        top, bottom = max(y, row * ch), min(y + height, (row + 1) * ch)
        for col in range(x // cw, (x + width - 1) // cw + 1):
            left, right = max(x, col * cw), min(x + width, (col + 1) * cw)
            part = chunk(row, col)[top - row * ch : bottom - row * ch, left - col * cw : right - col * cw]
            out[top - y : bottom - y, left - x : right - x] = part
    return out
