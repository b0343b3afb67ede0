"""Objects seen by more than one tile → one object each.

Tiles overlap, so an object near a seam is found twice or cut in pieces. Every batch compares its objects with
those of the tiles around them (``find_conflicts``, one task per batch, masks are looked at here only); the
coordinator then decides about all objects of the slide at once from a list of edges (``resolve``).

Two objects of different tiles are held against each other only where both tiles look. They are the same object
if there they overlap by ``merge_iou``, or if one is a piece, cut off by its tile's border in front of the other
tile, that lies mostly inside the other. What follows depends on which of them are cut:

- neither: seen twice; the better one stays. Better is: centre in its own tile's core, then higher predicted
  IoU, then lower id;
- one, and the other tile sees past the cut: the piece is dropped, the other tile has it whole;
- both, or one but the other tile does not see past the cut either: parts of one object, which gets the union
  of their masks.

In a nested run an object may lie in another one that is not it: there a piece counts as a part of an object of its own
class only.

Tiles without overlap have nothing to compare: objects cut by their seams stay in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsi_pipeline.segment.objects import SEAM_BOTTOM, SEAM_LEFT, SEAM_RIGHT, SEAM_TOP, ObjectBatch
from wsi_pipeline.stitching.crop import clip_boxes, crop_mask, is_solid
from wsi_pipeline.tiling.plan import Tile, TilePlan

PIECE_SHARE = 0.7
"""A cut-off piece that lies to this share inside another object is a part of it, however small it is against it:
models draw the sliver of an object at a tile's border less exactly than the whole."""

_AROUND = [(0, 1), (1, -1), (1, 0), (1, 1), (0, -1), (-1, 1), (-1, 0), (-1, -1)]


class Conflict(IntEnum):
    """What an edge ``(a, b, kind)`` between two objects says."""

    SEEN_TWICE = 0
    """Both are whole; the better one stays."""
    PIECE_OF = 1
    """a is a piece of b, which is whole; a goes."""
    PARTS_OF_ONE = 2
    """a and b are parts of one object."""


def later_neighbours(number: int, plan: TilePlan) -> list[int]:
    """The batches that ``find_conflicts`` of a batch needs beside that batch: each pair is looked at by the lower."""
    return [other for other in plan.batches_meeting(*plan.batch_bounds(number)) if other > number]


def owned(batch: ObjectBatch, plan: TilePlan) -> np.ndarray:
    """(N,) bool, whether the centre of each object's box lies in the core of the tile that found it."""
    result = np.zeros(len(batch), bool)
    doubled = batch.bbox[:, :2].astype(np.int64) + batch.bbox[:, 2:]
    for tile, index in _by_tile(batch, plan).values():
        core = 2 * np.array(tile.core)
        result[index] = ((doubled[index] >= core[:2]) & (doubled[index] < core[2:])).all(axis=1)
    return result


def find_conflicts(
    number: int,
    batches: Mapping[int, ObjectBatch],
    plan: TilePlan,
    ids: Mapping[int, np.ndarray],
    merge_iou: float,
    *,
    nested: bool = False,
) -> np.ndarray:
    """The objects of a batch that are also seen by another tile of it or by a tile of a later batch.

    Args:
        number: of the batch.
        batches: that batch and its ``later_neighbours``, by number.
        plan: the tiles.
        ids: (N,) int64 global ids of the objects of each of them, see ``stitching.ids``.
        merge_iou: IoU, where both tiles look, from which on two objects are one.
        nested: whether objects may lie in others.

    Returns:
        (E, 3) int64 rows ``a, b, kind``: two global ids and a ``Conflict``.
    """
    mine = _by_tile(batches[number], plan)
    others = {n: mine if n == number else _by_tile(batches[n], plan) for n in [number, *later_neighbours(number, plan)]}
    edges: list[tuple[int, int, int]] = []
    for tile, index in mine.values():
        for other_number, other, other_index in _around(tile, number, others, plan):
            common = _common(tile, other)
            a = _views(batches[number], ids[number], index, common, tile, other)
            b = _views(batches[other_number], ids[other_number], other_index, common, other, tile)
            edges += _compare(a, b, merge_iou, nested)
    return np.array(sorted(edges), np.int64).reshape(-1, 3)


def resolve(edges: np.ndarray, owner: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Decide about all objects of a slide.

    Args:
        edges: (E, 3) int64, the rows of ``find_conflicts`` of all batches, in any order.
        owner: (n,) bool, ``owned`` of all objects in the order of their global ids, which start at 1.
        iou: (n,) float32 predicted IoU likewise.

    Returns:
        root: (n + 1,) uint32, ``root[i]`` is the final id of object i, which is the smallest id of those it was
        merged with; 0 where it was dropped, and ``root[0]`` is 0.
    """
    edges = np.asarray(edges, np.int64).reshape(-1, 3)
    root = np.arange(len(iou) + 1, dtype=np.uint32)
    # Few objects lie on a seam: only they are looked at, numbered anew in the same order.
    involved, number = np.unique(edges[:, :2], return_inverse=True)
    (first, second), kind = number.reshape(-1, 2).T, edges[:, 2]
    owner, iou = np.asarray(owner, bool)[involved - 1], np.asarray(iou, np.float32)[involved - 1]
    alive = np.ones(len(involved), bool)
    alive[first[kind == Conflict.PIECE_OF]] = False
    twice = kind == Conflict.SEEN_TWICE
    alive &= _winners(first[twice], second[twice], owner, iou)
    merged = (kind == Conflict.PARTS_OF_ONE) & alive[first] & alive[second]
    smallest = _smallest_of_group(len(involved), first[merged], second[merged])
    root[involved] = np.where(alive, involved[smallest], 0)
    return root


def _winners(first: np.ndarray, second: np.ndarray, owner: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """(n,) bool: from the best object down, each that still stands removes those seen twice with it."""
    n = len(iou)
    rank = np.empty(n, np.int64)
    rank[np.lexsort((np.arange(n), -np.nan_to_num(iou, nan=-1.0), ~owner))] = np.arange(n)
    in_order = rank[first] < rank[second]
    better, worse = np.where(in_order, first, second), np.where(in_order, second, first)
    order = np.argsort(rank[better], kind="stable")
    # Every edge in which an object is the worse one comes before the first in which it is the better one, so one
    # pass over the edges is enough, whatever the length of the chains.
    stands = bytearray(b"\x01") * n
    for winner, loser in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if stands[winner]:
            stands[loser] = 0
    return np.frombuffer(stands, np.uint8).astype(bool)


def _smallest_of_group(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) int64, the smallest number each one is connected with."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    _, smallest = np.unique(group, return_index=True)
    return smallest[group]


def _by_tile(batch: ObjectBatch, plan: TilePlan) -> dict[int, tuple[Tile, np.ndarray]]:
    """Tile index → the tile and its objects' indices, ascending."""
    order = np.argsort(batch.tile, kind="stable")
    tiles, starts = np.unique(batch.tile[order], return_index=True)
    ends = [*starts[1:].tolist(), len(order)]
    return {
        index: (plan.tile(*divmod(index, plan.cols)), order[start:end])
        for index, start, end in zip(tiles.tolist(), starts.tolist(), ends[: len(tiles)], strict=True)
        if index >= 0
    }


def _around(
    tile: Tile, number: int, others: Mapping[int, Mapping[int, tuple[Tile, np.ndarray]]], plan: TilePlan
) -> Iterator[tuple[int, Tile, np.ndarray]]:
    """(batch, tile, object indices) of the tiles next to a tile that are this batch's to compare it with.

    Tiles farther away have nothing in common with it, as neighbours share at most half a tile.
    """
    for row_step, col_step in _AROUND:
        row, col = tile.row + row_step, tile.col + col_step
        if not (0 <= row < plan.rows and 0 <= col < plan.cols):
            continue
        index = row * plan.cols + col
        for other_number, tiles in others.items():
            if index in tiles and (other_number > number or index > tile.index):
                yield other_number, *tiles[index]


def _common(a: Tile, b: Tile) -> tuple[int, int, int, int]:
    """What both tiles see, ``x0, y0, x1, y1`` on the working grid."""
    return (
        max(a.x, b.x),
        max(a.y, b.y),
        min(a.x + a.size, b.x + b.size),
        min(a.y + a.size, b.y + b.size),
    )


@dataclass(frozen=True, slots=True)
class _Views:
    """The objects of one tile that reach into what another tile sees as well.

    Attributes:
        ids: (K,) their global ids.
        box: (K, 4) their boxes within the common area.
        mask: their masks within these boxes.
        area: (K,) px of these masks.
        cut: (K,) whether the tile's border cuts them anywhere.
        cut_before: (K,) whether it cuts them where the other tile sees on.
        class_id: (K,) their classes.
    """

    ids: np.ndarray
    box: np.ndarray
    mask: list[np.ndarray]
    area: np.ndarray
    cut: np.ndarray
    cut_before: np.ndarray
    class_id: np.ndarray


def _views(
    batch: ObjectBatch,
    ids: np.ndarray,
    index: np.ndarray,
    common: tuple[int, int, int, int],
    tile: Tile,
    other: Tile,
) -> _Views:
    box = clip_boxes(batch.bbox[index], common)
    inside = is_solid(box)
    index, box = index[inside], box[inside]
    mask = [crop_mask(batch, int(i), *b) for i, b in zip(index, box.tolist(), strict=True)]
    seam = batch.seam[index]
    return _Views(
        ids=ids[index],
        box=box,
        mask=mask,
        area=np.array([np.count_nonzero(m) for m in mask], np.int64),
        cut=seam != 0,
        cut_before=(seam & _sides_towards(tile, other)) != 0,
        class_id=batch.class_id[index],
    )


def _sides_towards(tile: Tile, other: Tile) -> int:
    """The sides of a tile past which another one sees, as ``SEAM_*`` bits."""
    sides = 0
    if other.col != tile.col:
        sides |= SEAM_RIGHT if other.col > tile.col else SEAM_LEFT
    if other.row != tile.row:
        sides |= SEAM_BOTTOM if other.row > tile.row else SEAM_TOP
    return sides


def _compare(a: _Views, b: _Views, merge_iou: float, nested: bool) -> Iterator[tuple[int, int, int]]:
    """Edges between the objects of two tiles."""
    if not len(a.ids) or not len(b.ids):
        return
    tree = shapely.STRtree(shapely.box(*b.box.T))
    for i, j in tree.query(shapely.box(*a.box.T)).T.tolist():
        shared = _shared_pixels(a.box[i].tolist(), a.mask[i], b.box[j].tolist(), b.mask[j])
        if not shared:
            continue
        same = shared >= merge_iou * (a.area[i] + b.area[j] - shared)
        piece = (a.cut_before[i] and shared >= PIECE_SHARE * a.area[i]) or (
            b.cut_before[j] and shared >= PIECE_SHARE * b.area[j]
        )
        if not (same or (piece and not (nested and a.class_id[i] != b.class_id[j]))):
            continue
        id_a, id_b = int(a.ids[i]), int(b.ids[j])
        if not a.cut[i] and not b.cut[j]:
            yield id_a, id_b, Conflict.SEEN_TWICE
        elif a.cut_before[i] and not b.cut[j]:
            yield id_a, id_b, Conflict.PIECE_OF
        elif b.cut_before[j] and not a.cut[i]:
            yield id_b, id_a, Conflict.PIECE_OF
        else:
            yield id_a, id_b, Conflict.PARTS_OF_ONE


def _shared_pixels(box_a: list[int], mask_a: np.ndarray, box_b: list[int], mask_b: np.ndarray) -> int:
    x0, y0 = max(box_a[0], box_b[0]), max(box_a[1], box_b[1])
    x1, y1 = min(box_a[2], box_b[2]), min(box_a[3], box_b[3])
    if x0 >= x1 or y0 >= y1:
        return 0
    part_a = mask_a[y0 - box_a[1] : y1 - box_a[1], x0 - box_a[0] : x1 - box_a[0]]
    part_b = mask_b[y0 - box_b[1] : y1 - box_b[1], x0 - box_b[0] : x1 - box_b[0]]
    return int(np.count_nonzero(part_a & part_b))
