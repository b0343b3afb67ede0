"""Which chunk puts together which object that lies in several chunks; integers only, no outlines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsi_pipeline.arrays import load_arrays, save_arrays
from wsi_pipeline.vectorize.chunks import ChunkFacts

Objects = Literal["label", "component"]
"""What one object is: all pixels of one label (instances), or one 4-connected piece of a label (classes)."""


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """What ``assemble_chunk`` does for one chunk; small, travels to a worker.

    Attributes:
        index: the chunk.
        objects: see ``Objects``.
        shared: components of this chunk that belong to objects of several chunks, sorted.
        chunk, component, region: M pieces of the objects this chunk puts together: component ``component[i]`` of chunk
            ``chunk[i]`` is part of the connected region ``region[i]``; sorted by chunk.
    """

    index: int
    objects: Objects
    shared: np.ndarray
    chunk: np.ndarray
    component: np.ndarray
    region: np.ndarray


@dataclass(frozen=True, slots=True)
class AssemblyPlan:
    """The pieces of all objects that lie in several chunks.

    Attributes:
        objects: see ``Objects``.
        owner, chunk, component, region: (M,) int64, one row per piece, sorted by owner, then chunk. The owner is the
            smallest chunk an object lies in.
    """

    objects: Objects
    owner: np.ndarray
    chunk: np.ndarray
    component: np.ndarray
    region: np.ndarray

    def save(self, path: Path) -> None:
        """Write beside ``path`` and rename, so that a file that exists is whole."""
        save_arrays(path, {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Self:
        pieces: dict[str, Any] = load_arrays(path)
        return cls(**pieces | {"objects": str(pieces["objects"])})

    def task(self, index: int) -> ChunkTask:
        """The part of the plan that concerns one chunk."""
        begin, end = np.searchsorted(self.owner, [index, index + 1])
        rows = slice(begin, end)
        shared = np.sort(self.component[self.chunk == index])
        return ChunkTask(index, self.objects, shared, self.chunk[rows], self.component[rows], self.region[rows])


def plan_assembly(facts: Iterable[ChunkFacts], objects: Objects = "label") -> AssemblyPlan:
    """Join the components of all chunks.

    Memory is a few dozen bytes per object with ``objects="label"`` and per border crossing with ``"component"``.

    Args:
        facts: of every chunk of one grid, in any order.
        objects: what one object is.
    """
    pieces, contacts, labels = _gather(facts, objects)
    nodes = np.unique(pieces)
    joins = _pairs(contacts[0], np.searchsorted(nodes, contacts[1]))
    region = _groups(len(nodes), joins)
    chunk, component = nodes >> 32, nodes & 0xFFFFFFFF
    if objects == "label":
        label = np.empty(len(nodes), np.int64)
        label[np.searchsorted(nodes, pieces)] = labels
        _, group = np.unique(label, return_inverse=True)
    else:
        group = region
    owner = np.full(len(nodes), np.iinfo(np.int64).max)
    np.minimum.at(owner, group, chunk)
    owner = owner[group]
    order = np.lexsort((component, chunk, owner))
    return AssemblyPlan(objects, owner[order], chunk[order], component[order], region[order].astype(np.int64))


def _gather(
    facts: Iterable[ChunkFacts], objects: Objects
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Pieces (chunk << 32 | component) of objects in several chunks, contacts as (key, piece), labels of the pieces."""
    every, labels, keys, touching = [_NONE], [_NONE], [_NONE], [_NONE]
    for fact in facts:
        base = fact.index << 32
        if objects == "label":
            every.append(base + 1 + np.arange(len(fact.label)))
            labels.append(fact.label)
        keys.append(fact.contact_key)
        touching.append(base + fact.contact_component.astype(np.int64))
    contacts = np.concatenate(keys), np.concatenate(touching)
    if objects == "component":
        return contacts[1], contacts, _NONE
    label, piece = np.concatenate(labels), np.concatenate(every)
    order = np.argsort(label, kind="stable")
    label, piece = label[order], piece[order]
    several = _in_several_chunks(label, piece >> 32)
    return piece[several], contacts, label[several]


_NONE = np.zeros(0, np.int64)


def _in_several_chunks(label: np.ndarray, chunk: np.ndarray) -> np.ndarray:
    """(N,) bool for rows sorted by label: the label has rows of more than one chunk."""
    if not len(label):
        return np.zeros(0, bool)
    first = np.flatnonzero(np.concatenate([[True], label[1:] != label[:-1]]))
    several = np.minimum.reduceat(chunk, first) != np.maximum.reduceat(chunk, first)
    return np.repeat(several, np.diff(np.append(first, len(label))))


def _pairs(key: np.ndarray, node: np.ndarray) -> np.ndarray:
    """(K, 2) nodes that meet at one place of a border."""
    order = np.argsort(key, kind="stable")
    key, node = key[order], node[order]
    one = np.flatnonzero(key[1:] == key[:-1])
    if 2 * len(one) != len(key):
        raise ValueError("the chunks do not fit together: trace every chunk of one grid exactly once")
    return np.stack([node[one], node[one + 1]], axis=1)


def _groups(count: int, joins: np.ndarray) -> np.ndarray:
    """(count,) group numbers of nodes joined by pairs."""
    graph = coo_array((np.ones(len(joins), bool), (joins[:, 0], joins[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]
