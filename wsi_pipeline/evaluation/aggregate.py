"""From the scores of images to numbers of a data set, each with an interval.

The bootstrap draws whole groups (patients, slides) with replacement, because images of one group are not independent.
Every statistic is computed for all draws at once: a draw is a row of weights, and row 0 is the data as they are. Two
runs that are weighted alike are compared draw by draw (a paired bootstrap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wsi_pipeline.evaluation.metrics import Counts, Score, ratios

CONFIDENCE = 0.95
REPLICATES = 2000
DETECTION = ("precision", "recall", "f1", "sq", "pq")
"""Metrics that count objects, and so have a meaning for objects of one size."""

Statistics = Mapping[str, np.ndarray]
"""Values (1 + replicates,) float64 by name; the first is the estimate, nan where there is nothing to compute from."""


class Estimate(NamedTuple):
    """A number and its 95 % interval; the interval is nan where there is one group only."""

    value: float
    low: float
    high: float


def bootstrap_weights(groups: Sequence[str], replicates: int, seed: int) -> np.ndarray:
    """How often each image is in each draw: (1 + replicates, N) int64 from the groups of N images; row 0 is 1."""
    names, of = np.unique(np.asarray(groups), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    return np.concatenate([np.ones((1, len(of)), np.int64), draws[:, of]])


def pooled(scores: Sequence[Score], weights: np.ndarray) -> Statistics:
    """Every ratio of the sums over images: objects and px weigh the same wherever they are."""
    return ratios(_summed([score.counts for score in scores], weights), nothing=np.nan)


def mean_over_images(values: Sequence[Mapping[str, float]], weights: np.ndarray) -> Statistics:
    """The mean of every named value; an image without it (nan) is left out of its mean."""
    return {name: _weighted_mean(np.array([value[name] for value in values]), weights) for name in values[0]}


def per_size(
    scores: Sequence[Score], unit_areas: np.ndarray, edges: Sequence[float], weights: np.ndarray
) -> list[Statistics]:
    """Detection metrics of objects of one size after the other.

    A match belongs to the bin of its true object, a prediction without one to that of its own area.

    Args:
        scores: of N images.
        unit_areas: (N,) area of a px of each, in the unit of the edges.
        edges: (B - 1,) between the bins, rising; an area on an edge belongs to the larger bin.
        weights: see ``bootstrap_weights``.

    Returns:
        B statistics of the names ``DETECTION``.
    """
    binned = [_binned(score, area, edges) for score, area in zip(scores, unit_areas, strict=True)]
    return [
        {name: values for name, values in ratios(_summed(counts, weights), nothing=np.nan).items() if name in DETECTION}
        for counts in zip(*binned, strict=True)
    ]


def size_terciles(scores: Sequence[Score], unit_areas: np.ndarray) -> list[float]:
    """Edges that divide all true objects into three equal parts; none where there are no objects."""
    areas = [score.truth_areas * area for score, area in zip(scores, unit_areas, strict=True)]
    return np.unique(np.quantile(np.concatenate(areas), [1 / 3, 2 / 3])).tolist() if sum(map(len, areas)) else []


def estimates(statistics: Statistics, n_groups: int) -> dict[str, Estimate]:
    """Value and percentile interval of each statistic."""
    return {name: _estimate(values, n_groups) for name, values in statistics.items()}


def differences(first: Statistics, second: Statistics, n_groups: int) -> dict[str, Estimate]:
    """Second minus first; both from the same weights."""
    return {name: _estimate(second[name] - first[name], n_groups) for name in first}


def _estimate(values: np.ndarray, n_groups: int) -> Estimate:
    draws = values[1:][~np.isnan(values[1:])]
    if n_groups < 2 or not len(draws):
        return Estimate(float(values[0]), np.nan, np.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(float(values[0]), float(low), float(high))


def _summed(counts: Sequence[Counts], weights: np.ndarray) -> Counts:
    return Counts(*(weights @ np.array(counts, np.float64)).T)


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    number = weights[:, known].sum(axis=1)
    total = weights[:, known] @ values[known]
    return np.divide(total, number, out=np.full(len(weights), np.nan), where=number > 0)


def _binned(score: Score, unit_area: float, edges: Sequence[float]) -> list[Counts]:
    n_bins = len(edges) + 1
    bins = np.digitize(score.truth_areas * unit_area, edges)
    truth = np.bincount(bins, minlength=n_bins)
    matched = np.bincount(bins, score.truth_iou > 0, minlength=n_bins)
    iou = np.bincount(bins, score.truth_iou, minlength=n_bins)
    false = np.bincount(np.digitize(score.false_areas * unit_area, edges), minlength=n_bins)
    columns = zip(truth, matched, matched + false, iou, strict=True)
    return [
        Counts(truth_objects=t, matched_objects=m, predicted_objects=p, matched_iou=total) for t, m, p, total in columns
    ]
