"""A slide whose true label image is known, looked at tile by tile as pass 1 does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.segment.objects import (
    SEAM_BOTTOM,
    SEAM_LEFT,
    SEAM_RIGHT,
    SEAM_TOP,
    ObjectBatch,
    pack_masks,
)
from wsi_pipeline.stitching.ids import first_ids, object_ids
from wsi_pipeline.stitching.paint import paint
from wsi_pipeline.stitching.seams import find_conflicts, later_neighbours, owned, resolve
from wsi_pipeline.tiling.plan import Tile, TilePlan


@dataclass
class Seen:
    """One object as one tile sees it; the mask lies at (x, y) of the working grid."""

    x: int
    y: int
    mask: np.ndarray
    tile: int = -1
    seam: int = 0
    iou: float = 0.9
    class_id: int = 1


def _make_batch(seen: Sequence[Seen], tiles: Sequence[tuple[int, int, np.ndarray]] = ()) -> ObjectBatch:
    bits, offset = pack_masks([s.mask for s in seen])
    n = len(seen)
    box = [(s.x, s.y, s.x + s.mask.shape[1], s.y + s.mask.shape[0]) for s in seen]
    size = tiles[0][2].shape[0] if tiles else 1
    return ObjectBatch(
        bbox=np.array(box, np.int32).reshape(n, 4),
        bits=bits,
        offset=offset,
        class_id=np.array([s.class_id for s in seen], np.int16),
        iou=np.array([s.iou for s in seen], np.float32),
        stability=np.ones(n, np.float32),
        detection=np.ones(n, np.float32),
        tile=np.array([s.tile for s in seen], np.int32),
        seam=np.array([s.seam for s in seen], np.uint8),
        refined=np.zeros(n, np.uint8),
        prompt_id=np.array([""] * n, dtype=np.str_),
        probabilities=np.zeros((n, 0), np.float32),
        logits=np.array([t[2] for t in tiles], np.int8).reshape(len(tiles), size, size),
        logits_xy=np.array([t[:2] for t in tiles], np.int32).reshape(len(tiles), 2),
    )


def _make_plan(
    width: int, height: int, *, size: int, overlap: int, block: int = 2, keep: np.ndarray | None = None
) -> TilePlan:
    grid = PixelGrid(width, height, Affine2D(), 0.5)
    shape = TilePlan.shape(grid, size, overlap)
    return TilePlan(grid, size, overlap, np.ones(shape, bool) if keep is None else keep, block)


def _look(labels: np.ndarray, tile: Tile) -> list[Seen]:
    """What a faultless model finds in one tile of a label image."""
    height, width = labels.shape
    x0, y0, x1, y1 = max(tile.x, 0), max(tile.y, 0), min(tile.x + tile.size, width), min(tile.y + tile.size, height)
    part = labels[y0:y1, x0:x1]
    seen = []
    for value in np.unique(part[part > 0]):
        mask = part == value
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top, right, bottom = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        seam = SEAM_LEFT * (x0 + left == tile.x and tile.x > 0)
        seam |= SEAM_TOP * (y0 + top == tile.y and tile.y > 0)
        seam |= SEAM_RIGHT * (x0 + right == tile.x + tile.size and x1 < width)
        seam |= SEAM_BOTTOM * (y0 + bottom == tile.y + tile.size and y1 < height)
        # any fixed order of quality; the same object has another in every tile
        iou = 0.5 + (value * 7 + tile.row * 3 + tile.col * 5) % 40 / 100
        crop = mask[top:bottom, left:right]
        seen.append(Seen(int(x0 + left), int(y0 + top), crop, tile.index, int(seam), iou, int(value) % 3))
    return seen


def _look_everywhere(labels: np.ndarray, plan: TilePlan) -> list[ObjectBatch]:
    return [_make_batch([s for t in plan.batch(n) for s in _look(labels, t)]) for n in range(plan.n_batches)]


def _ids(batches: Sequence[ObjectBatch], plan: TilePlan) -> list[np.ndarray]:
    """Global ids of the objects of every batch."""
    counted = [np.unique(batch.tile, return_counts=True) for batch in batches]
    tiles, counts = (np.concatenate([c[k] for c in counted]) for k in (0, 1))
    first = first_ids(tiles, counts, plan.rows * plan.cols)
    return [object_ids(batch, first) for batch in batches]


def _stitch(batches: Sequence[ObjectBatch], plan: TilePlan, *, merge_iou: float = 0.3) -> np.ndarray:
    """Pass 2 up to the painting, every batch seeing its neighbours only; returns the roots."""
    ids = _ids(batches, plan)
    n = sum(len(i) for i in ids)
    owner, iou = np.zeros(n, bool), np.zeros(n, np.float32)
    edges = []
    for number, batch in enumerate(batches):
        needed = [number, *later_neighbours(number, plan)]
        edges.append(
            find_conflicts(number, {k: batches[k] for k in needed}, plan, {k: ids[k] for k in needed}, merge_iou)
        )
        owner[ids[number] - 1], iou[ids[number] - 1] = owned(batch, plan), batch.iou
    return resolve(np.concatenate(edges), owner, iou)


def _paint_all(
    batches: Sequence[ObjectBatch], plan: TilePlan, root: np.ndarray, *, shard: int
) -> tuple[np.ndarray, np.ndarray]:
    """The whole label image, shard by shard, each from the batches the plan names."""
    width, height = plan.grid.width, plan.grid.height
    instance, class_ = np.zeros((height, width), np.uint32), np.zeros((height, width), np.uint16)
    ids = _ids(batches, plan)
    class_ids = np.zeros(len(root), np.int16)
    for batch, number in zip(batches, ids, strict=True):
        class_ids[number] = batch.class_id
    for y in range(0, height, shard):
        for x in range(0, width, shard):
            region = (x, y, min(x + shard, width), min(y + shard, height))
            near = plan.batches_meeting(*region)
            place = slice(y, region[3]), slice(x, region[2])
            painted = paint(region, [batches[n] for n in near], [ids[n] for n in near], root, class_ids)
            instance[place], class_[place] = painted
    return instance, class_


@dataclass(frozen=True)
class Bench:
    """The helpers above; functions, so that hypothesis may call them for every example."""

    seen: type[Seen] = Seen
    make_batch: Callable[..., ObjectBatch] = _make_batch
    make_plan: Callable[..., TilePlan] = _make_plan
    look_everywhere: Callable[..., list[ObjectBatch]] = _look_everywhere
    ids: Callable[..., list[np.ndarray]] = _ids
    stitch: Callable[..., np.ndarray] = _stitch
    paint_all: Callable[..., tuple[np.ndarray, np.ndarray]] = _paint_all


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()
