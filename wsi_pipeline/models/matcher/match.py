"""Patches of a target that match patches of annotated examples, there and back (Matcher §3.1).

A patch is a cell of a (g, g) grid over an image, numbered row by row. Similarities are cosines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

MOST_MATCHES = 40
"""Where more survive, the better half of them is taken."""


@dataclass(frozen=True, slots=True)
class Matches:
    """M pairs of a reference patch inside the examples and a target patch, one to one.

    Attributes:
        rows: (M,) int64 reference patches.
        columns: (M,) int64 target patches.
        similarity: (M,) of each pair.
        back: (M,) int64, the reference patch that the target patch matches in return; -1 for none.
        kept: (M,) bool, whether that one is inside too.
    """

    rows: np.ndarray
    columns: np.ndarray
    similarity: np.ndarray
    back: np.ndarray
    kept: np.ndarray

    def best(self, most: int = MOST_MATCHES) -> np.ndarray:
        """Numbers of the matches to go on with: the kept ones, or all where none is kept; half where they are many."""
        found = np.flatnonzero(self.kept if self.kept.any() else np.ones(len(self.rows), bool))
        if len(found) <= most:
            return found
        order = np.argsort(-self.similarity[found], kind="stable")
        return found[order[: len(found) // 2]]


def correspondence(reference: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(R, N) similarity of R reference and N target patches of unit length (R, C) and (N, C)."""
    return reference @ target.T


def patches_of(masks: np.ndarray, grid: int) -> np.ndarray:
    """(S * g * g,) bool: patches that masks (S, H, W) bool touch; without any px set, those in the middle of the image.

    The middle is a square of a patch's size, as published.
    """
    side = masks.shape[-1]
    patch = side // grid
    if not masks.any():
        start = side // 2 - patch // 2
        masks = np.zeros_like(masks)
        masks[:, start : start + patch, start : start + patch] = True
    return masks.reshape(len(masks), grid, patch, grid, patch).any(axis=(2, 4)).ravel()


def match(
    similarity: np.ndarray, inside: np.ndarray, known: np.ndarray | None = None, *, reverse: bool = True
) -> Matches:
    """The best one-to-one matches of the patches inside the examples, and what they match in return.

    Args:
        similarity: (R, N), see ``correspondence``.
        inside: (R,) bool, reference patches inside the examples.
        known: (R,) bool, reference patches that can be matched in return; None for all. Things that look like the
            examples and are not annotated would take the matches away from them.
        reverse: match in return; without, all matches are kept.
    """
    sources = np.flatnonzero(inside)
    rows, columns = linear_sum_assignment(similarity[sources], maximize=True)
    rows = sources[rows]
    back = np.full(len(rows), -1, np.int64)
    if reverse:
        candidates = np.flatnonzero(np.ones(len(inside), bool) if known is None else known | inside)
        matched, partner = linear_sum_assignment(similarity[np.ix_(candidates, columns)].T, maximize=True)
        back[matched] = candidates[partner]
    kept = inside[back] & (back >= 0) if reverse else np.ones(len(rows), bool)
    return Matches(rows, columns, similarity[rows, columns], back, kept)


def centres(columns: np.ndarray, grid: int, size: int) -> np.ndarray:
    """(P, 2) float32 (x, y) px: middles of patches (P,) of an image of ``size`` px, from top to bottom."""
    patches = np.unique(columns)
    cell = size / grid
    return np.stack([(patches % grid + 0.5) * cell, (patches // grid + 0.5) * cell], axis=1).astype(np.float32)
