"""Outlines of one chunk of a label image: closed rings, and open chains where objects go on in other chunks.

A chunk owns the edges of its own pixels. It is read with one pixel more on every side, so two neighbouring chunks
know the same about the border between them and their chains fit end to end.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from skimage.measure import label as connected_labels

from wsi_pipeline.arrays import load_arrays, save_arrays
from wsi_pipeline.vectorize.edges import Edges, find_edges
from wsi_pipeline.vectorize.ragged import offsets, owners
from wsi_pipeline.vectorize.rings import corner_key, order_chains
from wsi_pipeline.vectorize.simplify import kept_corners, whole_cells

KEPT, TOUCH = 1, 2
"""Flags of a point: a corner of the polygon; a corner where the object meets itself or its own label diagonally."""


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """Square chunks of ``size`` px over a label image of ``width`` x ``height`` px, numbered row by row."""

    width: int
    height: int
    size: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.width < 0 or self.height < 0:
            raise ValueError(f"no chunks of {self.size} px over an image of {self.width} x {self.height} px")

    @property
    def cols(self) -> int:
        return -(-self.width // self.size)

    @property
    def rows(self) -> int:
        return -(-self.height // self.size)

    def __len__(self) -> int:
        return self.rows * self.cols

    def bounds(self, index: int) -> tuple[int, int, int, int]:
        """``x0, y0, x1, y1`` of a chunk, px."""
        if not 0 <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        row, col = divmod(index, self.cols)
        x0, y0 = col * self.size, row * self.size
        return x0, y0, min(x0 + self.size, self.width), min(y0 + self.size, self.height)

    def frame(self, index: int, tolerance: float = 0.0) -> tuple[int, int, int, int]:
        """The rectangle in which a chunk's outlines are decided: the chunk, or the simplification cells it meets."""
        x0, y0, x1, y1 = self.bounds(index)
        if tolerance == 0:
            return x0, y0, x1, y1
        left, top, right, bottom = whole_cells(x0, y0, x1, y1)
        return left, top, min(right, self.width), min(bottom, self.height)

    def read_bounds(self, index: int, tolerance: float = 0.0) -> tuple[int, int, int, int]:
        """``x0, y0, x1, y1`` of the pixels ``trace_chunk`` needs: one more on every side that is not the image's end.

        With a tolerance and a ``size`` that is no multiple of ``simplify.CELL`` up to 255 more.
        """
        x0, y0, x1, y1 = self.frame(index, tolerance)
        return max(x0 - 1, 0), max(y0 - 1, 0), min(x1 + 1, self.width), min(y1 + 1, self.height)


@dataclass(frozen=True, slots=True)
class ChunkFacts:
    """What the coordinator must know of a chunk; see ``ChunkOutlines`` for the arrays.

    A few integers per object: 8 bytes for each, 12 more for each time it crosses the border of the chunk.
    """

    index: int
    label: np.ndarray
    contact_key: np.ndarray
    contact_component: np.ndarray

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the facts alone from a file of ``ChunkOutlines.save``."""
        facts: dict[str, Any] = load_arrays(path, [f.name for f in fields(cls)])
        return cls(**facts | {"index": int(facts["index"])})


@dataclass(frozen=True, slots=True)
class ChunkOutlines:
    """The outlines of a chunk: C chains with P points of N components.

    A component is a 4-connected piece of one label inside the chunk; components count from 1.

    Attributes:
        index: number of the chunk.
        xy: (P, 2) int32 px of the whole image; a chain's points from where it starts.
        flags: (P,) uint8 of ``KEPT`` and ``TOUCH``. Only the first point of an open chain may lack ``KEPT``: then the
            outline runs straight (or is simplified away) there.
        offset: (C + 1,) int64 where each chain starts.
        end: (C, 2) int32 the corner at which an open chain leaves the chunk; -1 for a closed ring.
        component: (C,) int32 the component each chain belongs to.
        label: (N,) int64 the label of each component.
        contact_key: (K,) int64 places on the border where a component goes on in the next chunk; the next chunk has
            the same keys.
        contact_component: (K,) int32 the component at each such place.
    """

    index: int
    xy: np.ndarray
    flags: np.ndarray
    offset: np.ndarray
    end: np.ndarray
    component: np.ndarray
    label: np.ndarray
    contact_key: np.ndarray
    contact_component: np.ndarray

    @property
    def facts(self) -> ChunkFacts:
        return ChunkFacts(self.index, self.label, self.contact_key, self.contact_component)

    def save(self, path: Path) -> None:
        """Write beside ``path`` and rename, so that a file that exists is whole."""
        save_arrays(path, {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Self:
        outlines: dict[str, Any] = load_arrays(path)
        return cls(**outlines | {"index": int(outlines["index"])})


def trace_chunk(labels: np.ndarray, grid: ChunkGrid, index: int, tolerance: float = 0.0) -> ChunkOutlines:
    """Trace the labels of one chunk.

    Args:
        labels: (h, w) integers ≥ 0 or bool, exactly ``grid.read_bounds(index, tolerance)``; 0 is background.
        grid: the chunks of the image.
        index: which chunk.
        tolerance: largest deviation of simplified outlines, px; 0 keeps every corner.

    Raises:
        ValueError: ``labels`` has another size, is not integer or holds a negative number.
    """
    padded = _padded(labels, grid, index, tolerance)
    frame, (x0, y0, x1, y1) = grid.frame(index, tolerance), grid.bounds(index)
    own = padded[y0 - frame[1] : y1 - frame[1] + 2, x0 - frame[0] : x1 - frame[0] + 2]
    if not own[1:-1, 1:-1].any():
        return _no_outlines(index)
    component, count = connected_labels(own[1:-1, 1:-1], connectivity=1, background=0, return_num=True)
    edges = find_edges(own)
    turns, touches = edges.turns()
    x, y = edges.start()
    if tolerance:
        corners = kept_corners(padded, frame[0], frame[1], tolerance)
        kept = corners[y + (y0 - frame[1]), x + (x0 - frame[0])]
    else:
        kept = turns
    chains = _collapse(edges, kept, touches, np.array([x0, y0]))
    row, col = np.divmod(edges.pixel, own.shape[1])
    component_of_edge = component[row - 1, col - 1]
    key, contact = _contacts(own, component, x0, y0)
    return ChunkOutlines(
        index=index,
        xy=chains.xy.astype(np.int32),
        flags=chains.flags,
        offset=chains.offset,
        end=chains.end.astype(np.int32),
        component=component_of_edge[chains.first].astype(np.int32),
        label=_component_labels(edges, component_of_edge, count),
        contact_key=key,
        contact_component=contact.astype(np.int32),
    )


def _padded(labels: np.ndarray, grid: ChunkGrid, index: int, tolerance: float) -> np.ndarray:
    """The frame of the chunk with one pixel around it, which is background beyond the image."""
    x0, y0, x1, y1 = grid.read_bounds(index, tolerance)
    if labels.shape != (y1 - y0, x1 - x0):
        raise ValueError(f"labels of chunk {index} are {labels.shape}, not {(y1 - y0, x1 - x0)}")
    if labels.dtype.kind not in "uib" or (labels.dtype.kind == "i" and labels.size and labels.min() < 0):
        raise ValueError("labels must be integers from 0")
    frame = grid.frame(index, tolerance)
    left, top = x0 - frame[0] + 1, y0 - frame[1] + 1
    right, bottom = frame[2] + 1 - x1, frame[3] + 1 - y1
    return np.pad(labels, ((top, bottom), (left, right)))


def _no_outlines(index: int) -> ChunkOutlines:
    """Those of a chunk without objects, which most of a slide is."""
    pairs, numbers, keys = np.zeros((0, 2), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64)
    flags, offset = np.zeros(0, np.uint8), np.zeros(1, np.int64)
    return ChunkOutlines(index, pairs, flags, offset, pairs, numbers, keys, keys, numbers)


@dataclass(frozen=True, slots=True)
class _Chains:
    xy: np.ndarray
    flags: np.ndarray
    offset: np.ndarray
    end: np.ndarray
    first: np.ndarray  # number of the first edge of each chain


def _collapse(edges: Edges, kept: np.ndarray, touches: np.ndarray, origin: np.ndarray) -> _Chains:
    """Link unit edges to chains and leave out the points that are no corners."""
    order, offset, closed = order_chains(edges.successor())
    start, end = np.stack(edges.start(), axis=1), np.stack(edges.end(), axis=1)
    first, last = order[offset[:-1]], order[offset[1:] - 1]
    stays = kept[order]
    stays[offset[:-1][~closed]] = True  # where the chain of another chunk is tied on
    counts = np.bincount(owners(np.diff(offset))[stays], minlength=len(closed))
    point = order[stays]
    flags = kept[point] * np.uint8(KEPT) + touches[point] * np.uint8(TOUCH)
    leaves = np.where(closed[:, None], -1, end[last] + origin)
    return _Chains(start[point] + origin, flags, offsets(counts), leaves, first)


def _component_labels(edges: Edges, component_of_edge: np.ndarray, count: int) -> np.ndarray:
    """(N,) int64 the label of component 1, 2, ..."""
    # A component without an edge fills the whole chunk and is the only one.
    result = np.full(count, edges.labels[1, 1], np.int64)
    result[component_of_edge - 1] = edges.label()
    return result


def _contacts(own: np.ndarray, component: np.ndarray, x0: int, y0: int) -> tuple[np.ndarray, np.ndarray]:
    """Where components go on beyond the four sides: keys that both chunks agree on, and the components.

    A run of pixels of one label on both sides of the border is one contact, named after its first pixel edge.
    """
    height, width = component.shape
    along_x, along_y = x0 + np.arange(width), y0 + np.arange(height)
    sides = (
        (own[1, 1:-1], own[0, 1:-1], component[0], corner_key(along_x, np.full(width, y0)) << 1),
        (own[-2, 1:-1], own[-1, 1:-1], component[-1], corner_key(along_x, np.full(width, y0 + height)) << 1),
        (own[1:-1, 1], own[1:-1, 0], component[:, 0], corner_key(np.full(height, x0), along_y) << 1 | 1),
        (own[1:-1, -2], own[1:-1, -1], component[:, -1], corner_key(np.full(height, x0 + width), along_y) << 1 | 1),
    )
    keys, components = [], []
    for inside, beyond, piece, key in sides:
        meets = np.where(inside == beyond, inside, 0)
        begins = (meets != 0) & (meets != np.concatenate([meets[:1] * 0, meets[:-1]]))
        keys.append(key[begins])
        components.append(piece[begins])
    return np.concatenate(keys), np.concatenate(components)
