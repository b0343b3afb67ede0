"""Chains and rings as arrays: putting links in order, cutting rings that touch themselves, canonical form."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from wsi_pipeline.vectorize.ragged import offsets, owners, spans


def order_chains(successor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put linked elements in walking order.

    Args:
        successor: (N,) index of the element that follows, -1 at the end of an open chain; nothing has two
            predecessors.

    Returns:
        (N,) int64 element numbers chain by chain, (C + 1,) int64 offsets, (C,) bool which chains are closed. A closed
        chain starts at its smallest element; chains are sorted by their smallest element.
    """
    count = len(successor)
    if not count:
        return np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, bool)
    chains, chain = connected_components(_link_graph(successor), directed=True, connection="weak")
    predecessor = np.full(count, -1, np.int64)
    linked = np.flatnonzero(successor >= 0)
    predecessor[successor[linked]] = linked

    first = np.empty(chains, np.int64)
    first[chain[::-1]] = np.arange(count - 1, -1, -1)  # the last assignment, of the smallest element, stays
    heads = np.flatnonzero(predecessor < 0)
    closed = np.ones(chains, bool)
    closed[chain[heads]] = False
    first[chain[heads]] = heads
    last = predecessor[first]
    tails = np.flatnonzero(successor < 0)
    last[chain[tails]] = tails

    # All chains in a row are one path, which a breadth-first walk follows in linear time.
    path = np.array(successor, np.int64)
    path[last[:-1]] = first[1:]
    path[last[-1]] = -1
    order = breadth_first_order(_link_graph(path), first[0], return_predecessors=False)
    return order.astype(np.int64), offsets(np.bincount(chain, minlength=chains)), closed


def _link_graph(successor: np.ndarray) -> csr_array:
    linked = successor >= 0
    indices = successor[linked].astype(np.int32)
    indptr = offsets(linked).astype(np.int32)
    return csr_array((np.ones(len(indices)), indices, indptr), shape=(len(successor), len(successor)))


def split_touching(xy: np.ndarray, touches: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut rings that pass one corner twice into rings that do not.

    A 4-connected object that meets itself at a corner is walked in one ring through both sides of that corner. As
    it never crosses itself, exchanging the two ways on at every such corner leaves simple rings.

    Args:
        xy: (P, 2) integers, the corners of the rings.
        touches: (P,) bool, corners that may be passed twice.
        offset: (R + 1,) offsets of the rings.

    Returns:
        (P,) int64 point numbers in their new order and the new offsets; a ring's points all come from one old ring.
    """
    points = np.flatnonzero(touches)
    ring = np.searchsorted(offset, points, side="right") - 1
    rank = np.lexsort((xy[points, 0], xy[points, 1], ring))
    points, ring = points[rank], ring[rank]
    twice = np.flatnonzero((ring[1:] == ring[:-1]) & (xy[points[1:]] == xy[points[:-1]]).all(axis=1))
    if not len(twice):
        return np.arange(len(xy)), offset
    successor = np.arange(1, len(xy) + 1)
    successor[offset[1:] - 1] = offset[:-1]
    one, two = points[twice], points[twice + 1]
    successor[one], successor[two] = successor[two], successor[one]
    order, offset, _ = order_chains(successor)
    return order, offset


def start_at_smallest(xy: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(P,) int64 point numbers that make every ring start at its topmost, then leftmost corner."""
    counts = np.diff(offset)
    if not len(counts):
        return np.zeros(0, np.int64)
    key = corner_key(xy[:, 0], xy[:, 1])
    smallest = np.minimum.reduceat(key, offset[:-1])
    ring = owners(counts)
    candidates = np.flatnonzero(key == smallest[ring])
    shift = np.empty(len(counts), np.int64)
    shift[ring[candidates]] = candidates - offset[ring[candidates]]
    within = spans(np.zeros(len(counts), np.int64), counts)
    return offset[ring] + (within + shift[ring]) % counts[ring]


def corner_key(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One int64 per corner that sorts by y, then x; coordinates from 0 to 2^31 - 1."""
    return (np.asarray(y, np.int64) << 32) | np.asarray(x, np.int64)


def double_area(xy: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(R,) int64 twice the signed area of every ring; positive for outer rings, negative for holes."""
    counts = np.diff(offset)
    if not len(counts):
        return np.zeros(0, np.int64)
    local = xy - xy[offset[:-1]][owners(counts)]  # small numbers: no overflow far from the origin
    following = np.arange(1, len(xy) + 1)
    following[offset[1:] - 1] = offset[:-1]
    cross = local[:, 0] * local[following, 1] - local[following, 0] * local[:, 1]
    return np.add.reduceat(cross, offset[:-1])
