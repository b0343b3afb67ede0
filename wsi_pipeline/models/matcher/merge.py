"""Which of the proposed masks are objects: filters, the choice by score, and what becomes of the chosen (§3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.models.matcher.score import TINY
from wsi_pipeline.models.matcher.settings import MatcherSettings


@dataclass(frozen=True, slots=True)
class Metrics:
    """Of M proposed masks, (M,) float64 each.

    Attributes:
        coverage, transport, purity: see ``score``.
    """

    coverage: np.ndarray
    transport: np.ndarray
    purity: np.ndarray

    def take(self, rows: np.ndarray) -> Metrics:
        return Metrics(self.coverage[rows], self.transport[rows], self.purity[rows])

    def score(self, settings: MatcherSettings) -> np.ndarray:
        """``α · transport + β · purity · coverage ** exponent``."""
        shares = self.purity * self.coverage**settings.exponent
        return settings.alpha * self.transport + settings.beta * shares


def select(metrics: Metrics, settings: MatcherSettings) -> np.ndarray:
    """Numbers of the masks that are merged, the best first; at least one where there is any."""
    rows = filtered(metrics, settings)
    scores = metrics.take(rows).score(settings)
    order = np.argsort(-scores, kind="stable")
    near = near_best if settings.selection == "distance" else best_share
    return rows[order[near(scores[order], settings)][: settings.top]]


def survivors(coverage: np.ndarray, purity: np.ndarray, settings: MatcherSettings) -> np.ndarray:
    """Numbers of the masks that can still be chosen before their transport, which takes long, is known."""
    rows = _above(np.arange(len(coverage)), coverage, settings.min_coverage)
    return rows if settings.min_transport > 0 else _above(rows, purity, settings.min_purity)


def filtered(metrics: Metrics, settings: MatcherSettings) -> np.ndarray:
    """Numbers of the masks that pass all limits, one after the other; the best always does."""
    rows = _above(np.arange(len(metrics.purity)), metrics.coverage, settings.min_coverage)
    rows = _above(rows, metrics.transport, settings.min_transport)
    return _above(rows, metrics.purity, settings.min_purity)


def _above(rows: np.ndarray, values: np.ndarray, limit: float) -> np.ndarray:
    return rows[values[rows] >= min(limit, values[rows].max())] if limit > 0 and len(rows) else rows


def best_share(scores: np.ndarray, settings: MatcherSettings) -> np.ndarray:
    """(M,) bool: scores, the best first, above a share of the best."""
    limit = settings.min_relative_score
    return scores / scores[:1] > limit if limit > 0 else np.ones(len(scores), bool)


def near_best(scores: np.ndarray, settings: MatcherSettings) -> np.ndarray:
    """(M,) bool: scores, the best first, near 1 and near the best."""
    distance = 1 - scores
    near = (distance - distance[:1]) / (distance.max(initial=0) + TINY) < settings.max_relative_distance
    near &= distance < settings.max_distance
    near[:1] = True
    return near


def union(masks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(H, W) bool: one mask of those of (M, H, W) that were chosen."""
    return masks[rows].any(axis=0)


def adding(masks: np.ndarray, rows: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Those of the chosen masks, the best first, of which what better ones leave is on the whole like the examples.

    Args:
        masks: (M, H, W) bool.
        rows: numbers of the chosen ones.
        field: (H, W), above 0 where a px is like the examples.
    """
    covered = np.zeros(field.shape, bool)
    kept = []
    for row in rows:
        new = masks[row] & ~covered
        if field[new].sum() > 0:
            kept.append(row)
            covered |= new
    return np.array(kept, np.int64)


def apart(masks: np.ndarray, rows: np.ndarray, most_overlap: float) -> np.ndarray:
    """Those of the chosen masks, the best first, that overlap no better one more than ``most_overlap``.

    Overlap is measured in the smaller of two masks, so that a mask of several objects and those of each do not stay.
    """
    flat = masks[rows].reshape(len(rows), masks[0].size).astype(np.float32)
    common = flat @ flat.T
    area = common.diagonal()
    overlap = common / np.maximum(np.minimum(area[:, None], area), 1)
    kept: list[int] = []
    for number in range(len(rows)):
        if not kept or overlap[number, kept].max() <= most_overlap:
            kept.append(number)
    return rows[kept]
