"""From maps of classes to what a segmenter is asked: pieces of a class, each with box, surest px and mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.roles import Detections, PromptBatch

_ROUND = np.ones((3, 3), bool)
_SURE = 1.0
"""Least logit of a mask prompt, either way."""
_APART = 8
"""Peaks of a piece are at least the side of the map over this apart."""
_DEPTH = 1e-3
"""What a px farther inside its piece counts as much as, in logits."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """N connected pieces of the class maps of a patch.

    Attributes:
        classes: (N,) int64 place of each one's class among those that were wanted, from 0 on.
        masks: (N, M, M) bool.
        logits: (N, M, M) float32 of each one's class, above 0 where it is as probable as a piece has to be.
        scores: (N,) float32 mean probability in 0..1.
    """

    classes: np.ndarray
    masks: np.ndarray
    logits: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def coarse(self) -> np.ndarray:
        """(N, M, M) float32 mask prompts: how sure of the class each px is, inside above 0 and outside below."""
        sure = np.maximum(np.abs(self.logits), _SURE)
        return np.where(self.masks, sure, -sure).astype(np.float32)

    def peaks(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The most probable px of each piece that are not close to each other.

        Returns:
            (N, count, 2) float32 (x, y) of their middles, px of the map, the best first; and (N, count) int64 labels:
            1, or -1 where a piece is too small for so many.
        """
        xy, labels = np.zeros((len(self), count, 2), np.float32), np.full((len(self), count), -1, np.int64)
        for row, (mask, logits) in enumerate(zip(self.masks, self.logits, strict=True)):
            found = _peaks(mask, logits, count)
            xy[row, : len(found)], labels[row, : len(found)] = np.array(found) + 0.5, 1
        return xy, labels


def _peaks(mask: np.ndarray, logits: np.ndarray, count: int) -> list[tuple[int, int]]:
    """(x, y) of at most ``count`` px of a mask (M, M)."""
    # where all px are as probable, those farthest inside come first
    heights = logits + _DEPTH * ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rows, columns = np.ogrid[: len(mask), : len(mask)]
    left, found = mask, list[tuple[int, int]]()
    while len(found) < count and left.any():
        row, column = np.unravel_index(np.where(left, heights, -np.inf).argmax(), mask.shape)
        left = left & (np.hypot(rows - row, columns - column) > len(mask) / _APART)
        found.append((int(column), int(row)))
    return found


def pieces_of(probability: np.ndarray, classes: Sequence[int], *, threshold: float, min_area: float) -> Pieces:
    """The pieces of some classes on a patch; a px is of its most probable class, if that is probable enough.

    Args:
        probability: (K, M, M) float32 in 0..1 of all classes.
        classes: numbers of those wanted, from 0 on.
        threshold: least probability of a px.
        min_area: px; smaller pieces are left out.
    """
    best = probability.argmax(axis=0)
    found: list[tuple[int, np.ndarray]] = []
    for place, number in enumerate(classes):
        labels, _ = ndimage.label((best == number) & (probability[number] >= threshold), _ROUND)
        areas = np.bincount(labels.ravel())[1:]
        found += [(place, labels == piece) for piece in np.flatnonzero(areas >= max(min_area, 1)) + 1]
    side = probability.shape[-1]
    masks = np.array([mask for _, mask in found], bool).reshape(-1, side, side)
    places = np.array([place for place, _ in found], np.int64)
    mine = probability[np.asarray(classes, np.int64)[places]]
    scores = np.array([one[mask].mean() for one, mask in zip(mine, masks, strict=True)], np.float32)
    return Pieces(places, masks, _log_odds(mine) - _log_odds(np.array(threshold)), scores)


def detections_of(pieces: Pieces, px: float) -> Detections:
    """Boxes, surest px and classes of pieces, as a prompter says them; ``px`` is patch px per px of the map."""
    points, _ = pieces.peaks(1)
    return Detections(
        bounding_boxes(pieces.masks) * np.float32(px), pieces.scores, points[:, 0] * np.float32(px), pieces.classes + 1
    )


def prompts_of(pieces: Sequence[Pieces], kinds: frozenset[str], *, px: float, points: int) -> PromptBatch:
    """Ask about the pieces of B patches with all that a model takes.

    Args:
        pieces: of each patch.
        kinds: what the model takes, of ``box``, ``point`` and ``mask``.
        px: patch px per px of the maps.
        points: most points of a piece.
    """
    xy, labels = (np.concatenate(parts) for parts in zip(*(one.peaks(points) for one in pieces), strict=True))
    masks = np.concatenate([one.masks for one in pieces])
    asked = "point" in kinds
    return PromptBatch(
        np.repeat(np.arange(len(pieces)), [len(one) for one in pieces]),
        boxes=bounding_boxes(masks) * np.float32(px) if "box" in kinds else None,
        points=xy * np.float32(px) if asked else None,
        point_labels=labels if asked else None,
        masks=np.concatenate([one.coarse() for one in pieces]) if "mask" in kinds else None,
    )


def _log_odds(probability: np.ndarray) -> np.ndarray:
    sure = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(sure / (1 - sure)), np.float32)
