"""Whole objects of a nested run: the masks of those that tiles saw in parts, put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.segment.objects import ObjectBatch


@dataclass(frozen=True, slots=True)
class Whole:
    """One object.

    Attributes:
        label: its final id.
        xy: working-grid px of its mask's corner.
        mask: (h, w) bool.
    """

    label: int
    xy: tuple[int, int]
    mask: np.ndarray


def members_elsewhere(ids: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Ids, ascending, of objects that were merged with one of ``ids`` and are none of them.

    Args:
        ids: (N,) global ids of a batch's objects.
        root: (n + 1,) final id of each object of the slide, 0 where it was dropped.
    """
    merged = np.flatnonzero((root != 0) & (root != np.arange(len(root))))
    return np.setdiff1d(merged[np.isin(root[merged], ids)], ids)


def wholes_of(
    number: int, batches: Mapping[int, ObjectBatch], ids: Mapping[int, np.ndarray], root: np.ndarray
) -> Iterator[Whole]:
    """The objects whose final id is that of an object of one batch, in the order of their ids.

    Args:
        number: the batch.
        batches: it, and those that ``members_elsewhere`` are in.
        ids: (N,) global ids of the objects of each of these.
        root: as of ``members_elsewhere``.
    """
    members: dict[int, list[tuple[int, int]]] = {int(id_): [] for id_ in ids[number] if root[id_] == id_}
    for which in sorted(batches):
        for index, label in enumerate(root[ids[which]].tolist()):
            if label in members:
                members[label].append((which, index))
    for label, parts in sorted(members.items()):
        boxes = np.stack([batches[which].bbox[index] for which, index in parts])
        (x, y), (right, bottom) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
        mask = np.zeros((bottom - y, right - x), bool)
        for (which, index), (x0, y0, x1, y1) in zip(parts, boxes.tolist(), strict=True):
            mask[y0 - y : y1 - y, x0 - x : x1 - x] |= batches[which].mask(index)
        yield Whole(label, (x, y), mask)
