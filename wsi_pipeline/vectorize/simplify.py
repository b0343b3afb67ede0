"""Which corners of the outlines stay when outlines are simplified, decided so that the picture stays planar.

Outlines are cut into arcs: at nodes, where three or more outlines meet, and where they cross the lines of a fixed
lattice of ``CELL`` px. Both sides of an arc are thus simplified as one, and everything about an arc follows from the
pixels of one cell, so the result does not depend on how the image is cut into chunks.

Every arc is simplified after Douglas and Peucker (1973). A piece of an arc becomes a straight line only if the
convex hull of the piece holds no corner of any other outline, nor of the rest of its own; then no two lines can
cross (the consistency condition of de Berg, van Kreveld and Schirra, "Topologically correct subdivision
simplification using the bandwidth criterion", 1998). So polygons stay valid, neighbours keep one border and islands
stay in their holes, without repair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from wsi_pipeline.vectorize.edges import find_edges
from wsi_pipeline.vectorize.ragged import offsets, owners, spans
from wsi_pipeline.vectorize.rings import corner_key, order_chains, start_at_smallest

CELL = 256
"""Side, px, of the cells in which outlines are simplified."""

_BOX = 64 * 64
"""Pieces whose bounding box holds more corners than this and foreign ones are split without a closer look."""
_BLOCK = 1 << 21
"""How many corners are looked at at once."""


def whole_cells(x0: int, y0: int, x1: int, y1: int) -> tuple[int, int, int, int]:
    """The smallest rectangle of whole cells around a rectangle, px."""
    return x0 // CELL * CELL, y0 // CELL * CELL, -(-x1 // CELL) * CELL, -(-y1 // CELL) * CELL


@dataclass(frozen=True, slots=True)
class _Arcs:
    """Arcs as lattice paths with one point per px; ``xy`` (P, 2) int64, ``offset`` (A + 1,)."""

    xy: np.ndarray
    offset: np.ndarray


def kept_corners(labels: np.ndarray, x0: int, y0: int, tolerance: float) -> np.ndarray:
    """The corners that outlines keep so that none deviates by more than ``tolerance``.

    Args:
        labels: (H + 2, W + 2) integers ≥ 0, an image of whole cells (or up to the end of the slide's grid) with a
            one-pixel frame.
        x0, y0: where the image, without its frame, lies on the grid, px.
        tolerance: px, above 0.

    Returns:
        (H + 1, W + 1) bool over the corners of the image's pixels.
    """
    border, kept = _fixed_corners(labels, x0, y0)
    arcs = _find_arcs(labels, kept, x0, y0)
    if len(arcs.offset) > 1:
        chosen = _choose_points(arcs, border, tolerance, x0, y0)
        kept[arcs.xy[chosen, 1], arcs.xy[chosen, 0]] = True
    return kept


def _fixed_corners(labels: np.ndarray, x0: int, y0: int) -> tuple[np.ndarray, np.ndarray]:
    """(H + 1, W + 1) bool each: corners on any outline; corners where arcs end."""
    differs_h, differs_v = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    up, down = differs_h[:-1], differs_h[1:]
    left, right = differs_v[:, :-1], differs_v[:, 1:]
    degree = up.view(np.uint8) + down.view(np.uint8) + left.view(np.uint8) + right.view(np.uint8)
    border, fixed = degree > 0, degree > 2
    # On a line of the lattice an outline stays in its arc only as long as it follows that line.
    rows, cols = slice(-y0 % CELL, None, CELL), slice(-x0 % CELL, None, CELL)
    along_x, along_y = left & right, up & down
    fixed[rows] |= border[rows] & ~along_x[rows]
    fixed[:, cols] |= border[:, cols] & ~along_y[:, cols]
    follows = (degree[rows, cols] == 2) & (along_x | along_y)[rows, cols]
    fixed[rows, cols] = border[rows, cols] & ~follows
    return border, fixed


def _find_arcs(labels: np.ndarray, fixed: np.ndarray, x0: int, y0: int) -> _Arcs:
    """The arcs inside the cells; those on the lines between cells are straight and need no thought."""
    edges = find_edges(labels)
    edges = edges.select(edges.label() > edges.other())  # one of the two sides, the same along all of an arc
    x, y = edges.start()
    end_x, end_y = edges.end()
    on_line = ((x == end_x) & ((x + x0) % CELL == 0)) | ((y == end_y) & ((y + y0) % CELL == 0))
    edges = edges.select(~on_line)
    x, y, end_x, end_y = (v[~on_line] for v in (x, y, end_x, end_y))

    successor = edges.successor()
    successor[fixed[end_y, end_x]] = -1
    order, offset, closed = order_chains(successor)
    if not len(order):
        return _Arcs(np.zeros((0, 2), np.int64), offset)
    xy = np.stack([x, y], axis=1)[order]
    # A ring without a node starts at its smallest corner whatever its edges are numbered.
    in_ring = np.repeat(closed, np.diff(offset))
    xy[in_ring] = xy[in_ring][start_at_smallest(xy[in_ring], offsets(np.diff(offset)[closed]))]
    last = order[offset[1:] - 1]
    ends = np.stack([end_x[last], end_y[last]], axis=1)
    ends[closed] = xy[offset[:-1]][closed]
    return _Arcs(np.insert(xy, offset[1:], ends, axis=0), offset + np.arange(len(offset)))


def _choose_points(arcs: _Arcs, border: np.ndarray, tolerance: float, x0: int, y0: int) -> np.ndarray:
    """(P,) bool, the points of the arcs that stay, besides their ends."""
    chosen = np.zeros(len(arcs.xy), bool)
    foreign = _ForeignCorners(arcs, border)
    first, last = arcs.offset[:-1], arcs.offset[1:] - 1
    chosen[first[_is_ring(arcs)]] = True
    splits = _splits_due(arcs, x0, y0)
    while True:
        bends = last - first > 1
        first, last, splits = first[bends], last[bends], splits[bends]
        if not len(first):
            return chosen
        far, distance2 = _farthest(arcs.xy, first, last)
        line = distance2 == 0
        candidate = np.flatnonzero(~line & (splits == 0) & (distance2 <= tolerance * tolerance))
        line[candidate] = foreign.none_in(first[candidate], last[candidate])
        first, last, far, splits = first[~line], last[~line], far[~line], splits[~line]
        chosen[far] = True
        first, last = np.concatenate([first, far]), np.concatenate([far, last])
        splits = np.tile(np.maximum(splits - 1, 0), 2)


def _is_ring(arcs: _Arcs) -> np.ndarray:
    return (arcs.xy[arcs.offset[:-1]] == arcs.xy[arcs.offset[1:] - 1]).all(axis=1)


def _splits_due(arcs: _Arcs, x0: int, y0: int) -> np.ndarray:
    """How often each arc must be split so that it cannot fall upon another with the same two ends.

    A ring is split twice: its two halves have the same ends. An arc is split once if another of its cell has the same
    ends, or if both ends are on one line of the lattice, where an arc may run straight or lie in the next cell.
    """
    a, b = arcs.xy[arcs.offset[:-1]], arcs.xy[arcs.offset[1:] - 1]
    key_a, key_b = corner_key(a[:, 0], a[:, 1]), corner_key(b[:, 0], b[:, 1])
    pair = np.stack([np.minimum(key_a, key_b), np.maximum(key_a, key_b)], axis=1)
    _, inverse, count = np.unique(pair, axis=0, return_inverse=True, return_counts=True)
    shared = count[inverse.ravel()] > 1
    on_line = ((a == b) & ((a + np.array([x0, y0])) % CELL == 0)).any(axis=1)
    return np.where(_is_ring(arcs), 2, (shared | on_line).astype(np.int64))


def _farthest(xy: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every piece the (first) point farthest from the straight line between its ends, and the squared distance."""
    counts = last - first - 1
    point, piece = spans(first + 1, counts), owners(counts)
    start, chord = xy[first], xy[last] - xy[first]
    to_point = xy[point] - start[piece]
    chord2 = (chord * chord).sum(axis=1)[piece]
    along = (to_point * chord[piece]).sum(axis=1)
    across = to_point[:, 0] * chord[piece, 1] - to_point[:, 1] * chord[piece, 0]
    to_end = to_point - chord[piece]
    distance2 = np.where(
        (along < 0) | (chord2 == 0),
        (to_point * to_point).sum(axis=1),
        np.where(along > chord2, (to_end * to_end).sum(axis=1), across * across / np.maximum(chord2, 1)),
    )
    begin = offsets(counts)[:-1]
    largest = np.maximum.reduceat(distance2, begin)
    hits = np.flatnonzero(distance2 == largest[piece])[::-1]
    far = np.empty(len(first), np.int64)
    far[piece[hits]] = point[hits]  # in reverse, so the first of equals stays
    return far, largest


class _ForeignCorners:
    """Tells whether corners of other outlines lie in the convex hull of a piece of an arc."""

    def __init__(self, arcs: _Arcs, border: np.ndarray) -> None:
        self._xy, self._border = arcs.xy, border
        self._sums = np.zeros((border.shape[0] + 1, border.shape[1] + 1), np.int32)
        np.cumsum(border, axis=0, out=self._sums[1:, 1:])
        np.cumsum(self._sums, axis=1, out=self._sums)
        # Ends of arcs are set too but compared by place, because arcs share them.
        self._point = np.full(border.shape, -1, np.int32)
        self._point[arcs.xy[:, 1], arcs.xy[:, 0]] = np.arange(len(arcs.xy))

    def none_in(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """(N,) bool for pieces given by their first and last point."""
        counts = last - first + 1
        if not len(counts):
            return np.zeros(0, bool)
        points = self._xy[spans(first, counts)]
        begin = offsets(counts)[:-1]
        low, high = np.minimum.reduceat(points, begin), np.maximum.reduceat(points, begin)
        free = self._count(low, high) == counts
        size = (high - low + 1).prod(axis=1)
        unsure = np.flatnonzero(~free & (size <= _BOX))
        block = np.cumsum(size[unsure]) // _BLOCK
        for part in np.split(unsure, np.flatnonzero(np.diff(block)) + 1):
            free[part] = self._none_in_hulls(first[part], last[part], low[part], high[part])
        return free

    def _count(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        (x0, y0), (x1, y1) = low.T, high.T + 1
        return self._sums[y1, x1] - self._sums[y0, x1] - self._sums[y1, x0] + self._sums[y0, x0]

    def _none_in_hulls(self, first: np.ndarray, last: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        piece, x, y = self._foreign_in_boxes(first, last, low, high)
        free = np.ones(len(first), bool)
        free[piece] = False
        doubtful, piece = np.unique(piece, return_inverse=True)
        counts = (last - first + 1)[doubtful]
        paths = shapely.linestrings(self._xy[spans(first[doubtful], counts)], indices=owners(counts))
        inside = shapely.intersects_xy(shapely.convex_hull(paths)[piece], x, y)
        free[doubtful] = np.bincount(piece[inside], minlength=len(doubtful)) == 0
        return free

    def _foreign_in_boxes(
        self, first: np.ndarray, last: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Piece, x and y of the outline corners in the boxes of the pieces that are not the piece's own."""
        width, height = (high - low + 1).T
        area = width * height
        piece = owners(area)
        dy, dx = np.divmod(spans(np.zeros(len(area), np.int64), area), width[piece])
        x, y = low[piece, 0] + dx, low[piece, 1] + dy
        point = self._point[y, x]
        own = (point > first[piece]) & (point < last[piece])
        for end in (first, last):
            own |= (self._xy[end][piece] == np.stack([x, y], axis=1)).all(axis=1)
        foreign = self._border[y, x] & ~own
        return piece[foreign], x[foreign], y[foreign]
