"""Which predicted object stands for which true one, from one table of overlaps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from wsi_pipeline.evaluation.labels import Labels

MATCH_IOU = 0.5
"""Objects match above this IoU; no object then has two partners (Kirillov et al. 2019, section 4.1)."""


class Overlaps(NamedTuple):
    """Every pair of a true and a predicted object that have px in common, by true, then by predicted object.

    Attributes:
        truth, predicted: (K,) int64 index of the object, from 0.
        common: (K,) int64, px of both.
        union: (K,) int64, px of either.
    """

    truth: np.ndarray
    predicted: np.ndarray
    common: np.ndarray
    union: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """(K,) float64."""
        return self.common / self.union


def overlaps(truth: Labels, prediction: Labels) -> Overlaps:
    """The contingency table of two label images of one shape, without its zeros."""
    both = truth.mask & prediction.mask
    columns = max(1, len(prediction.classes))
    pair = (truth.image[both].astype(np.int64) - 1) * columns + prediction.image[both] - 1
    pair, common = np.unique(pair, return_counts=True)
    first, second = np.divmod(pair, columns)
    return Overlaps(first, second, common, truth.areas[first] + prediction.areas[second] - common)


def matches(found: Overlaps) -> np.ndarray:
    """(K,) bool, the pairs whose IoU is above ``MATCH_IOU``."""
    return found.iou > MATCH_IOU


def optimal_matches(found: Overlaps) -> np.ndarray:
    """(K,) bool, at most one pair for every object and the sum of their IoU as large as it can be."""
    chosen = np.zeros(len(found.truth), bool)
    if not len(chosen):
        return chosen
    truth, row = np.unique(found.truth, return_inverse=True)
    predicted, column = np.unique(found.predicted, return_inverse=True)
    # scipy matches all rows at the least cost; a column of its own for every row is the choice of no partner
    alone = np.arange(len(truth))
    cost = np.concatenate([2 - found.iou, np.full(len(truth), 2.0)])
    place = np.concatenate([row, alone]), np.concatenate([column, len(predicted) + alone])
    shape = len(truth), len(predicted) + len(truth)
    rows, columns = min_weight_full_bipartite_matching(csr_array((cost, place), shape=shape))
    matched = columns < len(predicted)
    key = row * len(predicted) + column
    chosen[np.searchsorted(key, rows[matched] * len(predicted) + columns[matched])] = True
    return chosen


def best_for_truth(found: Overlaps) -> np.ndarray:
    """(K,) bool, for every true object its predicted one of largest IoU; several may have the same."""
    order = np.lexsort((found.common, found.iou, found.truth))
    last = np.append(np.diff(found.truth[order]) > 0, True)[: len(order)]
    chosen = np.zeros(len(order), bool)
    chosen[order[last]] = True
    return chosen


def aggregated(found: Overlaps, chosen: np.ndarray, truth: Labels, prediction: Labels) -> tuple[int, int]:
    """Numerator and denominator, px, of the aggregated Jaccard index over chosen pairs (K,) bool.

    Whatever is in no pair adds its px to the denominator (Kumar et al. 2017, algorithm 1).
    """
    alone = np.delete(truth.areas, found.truth[chosen]).sum() + np.delete(
        prediction.areas, found.predicted[chosen]
    ).sum(dtype=np.int64)
    return int(found.common[chosen].sum()), int(found.union[chosen].sum() + alone)
