"""Polygons of the objects a chunk owns, from its own outlines and the chains of the chunks they reach into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.vectorize.chunks import KEPT, TOUCH, ChunkOutlines
from wsi_pipeline.vectorize.plan import ChunkTask
from wsi_pipeline.vectorize.polygons import Rings, VectorObjects, build_objects
from wsi_pipeline.vectorize.ragged import offsets, owners, spans
from wsi_pipeline.vectorize.rings import order_chains


def assemble_chunk(
    task: ChunkTask,
    load: Callable[[int], ChunkOutlines],
    *,
    min_area: float = 0.0,
    fill_holes: float = 0.0,
) -> VectorObjects:
    """Make the polygons of every object a chunk owns.

    Each chunk the objects reach into is loaded once, one after the other, and only the chains needed stay in memory.
    All chunks together give every object once; a polygon does not depend on the size of the chunks.

    Args:
        task: from ``AssemblyPlan.task``.
        load: gives the outlines of a chunk by its number.
        min_area: objects smaller than this are dropped, px² of the polygon as it is returned.
        fill_holes: holes smaller than this are filled, px².

    Raises:
        ValueError: the outlines are not of the plan, or chunks were traced from different labels.
    """
    chains = _concatenate([chains for chains in _selected(task, load) if len(chains.end)])
    rings = _close(chains)
    return build_objects(rings, by_label=task.objects == "label", min_area=min_area, fill_holes=fill_holes)


@dataclass(frozen=True, slots=True)
class _Chains:
    """Chains of any chunks; fields as in ``ChunkOutlines``, with the region and label of every chain."""

    xy: np.ndarray
    flags: np.ndarray
    offset: np.ndarray
    end: np.ndarray
    region: np.ndarray
    label: np.ndarray


def _selected(task: ChunkTask, load: Callable[[int], ChunkOutlines]) -> Iterator[_Chains]:
    """The chains of the chunk's own objects, then of its pieces chunk by chunk."""
    own = load(task.index)
    local = 1 + np.arange(len(own.label))
    local = np.setdiff1d(local, task.shared, assume_unique=True)
    yield _chains_of(own, local, -local)  # negative: never the number of a region of several chunks
    for chunk in np.unique(task.chunk):
        rows = slice(*np.searchsorted(task.chunk, [chunk, chunk + 1]))
        outlines = own if chunk == task.index else load(int(chunk))
        yield _chains_of(outlines, task.component[rows], task.region[rows])


def _chains_of(outlines: ChunkOutlines, component: np.ndarray, region: np.ndarray) -> _Chains:
    """The chains of some components, of which each is part of a region."""
    if len(component) and component.max() > len(outlines.label):
        raise ValueError(f"the outlines of chunk {outlines.index} are not those the plan was made from")
    region_of = np.zeros(len(outlines.label) + 1, np.int64)
    chosen = np.zeros(len(outlines.label) + 1, bool)
    region_of[component], chosen[component] = region, True
    chains = np.flatnonzero(chosen[outlines.component])
    counts = np.diff(outlines.offset)[chains]
    points = spans(outlines.offset[chains], counts)
    of = outlines.component[chains]
    return _Chains(
        outlines.xy[points].astype(np.int64),
        outlines.flags[points],
        offsets(counts),
        outlines.end[chains].astype(np.int64),
        region_of[of],
        outlines.label[of - 1],
    )


def _concatenate(parts: list[_Chains]) -> _Chains:
    if not parts:
        none = np.zeros(0, np.int64)
        return _Chains(none.reshape(0, 2), none, offsets(none), none.reshape(0, 2), none, none)
    return _Chains(
        np.concatenate([part.xy for part in parts]),
        np.concatenate([part.flags for part in parts]),
        offsets(np.concatenate([np.diff(part.offset) for part in parts])),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.region for part in parts]),
        np.concatenate([part.label for part in parts]),
    )


def _close(chains: _Chains) -> Rings:
    """Tie open chains end to end and leave out the points that only held their place."""
    order, ring_offset, closed = order_chains(_next_chain(chains))
    if not closed.all():
        raise ValueError("outlines of neighbouring chunks do not meet: trace all chunks from the same labels")
    counts = np.diff(chains.offset)[order]
    points = spans(chains.offset[order], counts)
    ring = owners(np.diff(ring_offset))
    stays = (chains.flags[points] & KEPT) != 0
    points_of_ring = np.bincount(np.repeat(ring, counts)[stays], minlength=len(closed))
    points = points[stays]
    first = order[ring_offset[:-1]]
    return Rings(
        chains.xy[points],
        (chains.flags[points] & TOUCH) != 0,
        offsets(points_of_ring),
        chains.region[first],
        chains.label[first],
    )


def _next_chain(chains: _Chains) -> np.ndarray:
    """(C,) the chain that goes on where each one ends; a closed one goes on with itself.

    Inside one region at most one chain ends at a corner: where the region passes a corner twice, both ways in and out
    are edges of one pixel, hence of one chunk.
    """
    successor = np.arange(len(chains.end))
    open_ = np.flatnonzero(chains.end[:, 0] >= 0)
    start, end = chains.xy[chains.offset[open_]], chains.end[open_]
    region = chains.region[open_]
    by_start = np.lexsort((start[:, 0], start[:, 1], region))
    by_end = np.lexsort((end[:, 0], end[:, 1], region))
    same_corner = (start[by_start] == end[by_end]).all() and (region[by_start] == region[by_end]).all()
    if not same_corner:
        raise ValueError("outlines of neighbouring chunks do not meet: trace all chunks from the same labels")
    successor[open_[by_end]] = open_[by_start]
    return successor
