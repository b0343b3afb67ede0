"""The numbers of one image, as counts that add up over images and ratios of such sums.

| metric | of | source |
| --- | --- | --- |
| ``dice``, ``iou`` | px of all objects together | |
| ``boundary_iou`` | their boundaries, by default 2 % of the diagonal wide | Cheng et al. 2021 |
| ``precision``, ``recall``, ``f1`` | objects matched above IoU 0.5 | |
| ``sq``, ``pq`` | mean IoU of the matched; ``pq = sq * dq``, and DQ is ``f1`` | Kirillov et al. 2019 |
| ``aji`` | every true object with its best predicted one | Kumar et al. 2017 |
| ``aji_plus`` | the same, one to one | Graham et al. 2019 (HoVer-Net) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from wsi_pipeline.evaluation.distances import hd95
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.matching import aggregated, best_for_truth, matches, optimal_matches, overlaps
from wsi_pipeline.training.boundary import EVALUATION_WIDTH, boundary


class Counts(NamedTuple):
    """What the ratios are made of: float64 scalars, or arrays of one shape. Px unless it says objects."""

    common: np.ndarray | float = 0
    truth_px: np.ndarray | float = 0
    predicted_px: np.ndarray | float = 0
    boundary_common: np.ndarray | float = 0
    boundary_union: np.ndarray | float = 0
    matched_objects: np.ndarray | float = 0
    truth_objects: np.ndarray | float = 0
    predicted_objects: np.ndarray | float = 0
    matched_iou: np.ndarray | float = 0
    aji_common: np.ndarray | float = 0
    aji_union: np.ndarray | float = 0
    aji_plus_common: np.ndarray | float = 0
    aji_plus_union: np.ndarray | float = 0


@dataclass(frozen=True, slots=True)
class Score:
    """What is kept of a pair of label images.

    Attributes:
        counts: sums over the image.
        hd95: px, see ``distances.hd95``.
        truth_areas: (n,) px of the true objects.
        truth_iou: (n,) IoU of each with its match, 0 without one.
        false_areas: (m,) px of the predicted objects that match none.
    """

    counts: Counts
    hd95: float
    truth_areas: np.ndarray
    truth_iou: np.ndarray
    false_areas: np.ndarray

    def ratios(self) -> dict[str, float]:
        return {name: float(value) for name, value in ratios(self.counts).items()}


def score(truth: Labels, prediction: Labels, boundary_width: float = EVALUATION_WIDTH) -> Score:
    """Compare two label images of one shape; the width is a share of their diagonal."""
    found = overlaps(truth, prediction)
    matched = matches(found)
    truth_iou = np.zeros(len(truth.classes))
    truth_iou[found.truth[matched]] = found.iou[matched]
    boundary_common, boundary_union = _boundaries(truth.mask, prediction.mask, boundary_width)
    aji = aggregated(found, best_for_truth(found), truth, prediction)
    aji_plus = aggregated(found, optimal_matches(found), truth, prediction)
    counts = Counts(
        common=int(found.common.sum()),
        truth_px=int(truth.areas.sum()),
        predicted_px=int(prediction.areas.sum()),
        boundary_common=boundary_common,
        boundary_union=boundary_union,
        matched_objects=int(matched.sum()),
        truth_objects=len(truth.classes),
        predicted_objects=len(prediction.classes),
        matched_iou=float(truth_iou.sum()),
        aji_common=aji[0],
        aji_union=aji[1],
        aji_plus_common=aji_plus[0],
        aji_plus_union=aji_plus[1],
    )
    false_areas = np.delete(prediction.areas, found.predicted[matched])
    return Score(counts, hd95(truth.mask, prediction.mask), truth.areas, truth_iou, false_areas)


def ratios(counts: Counts, *, nothing: float = 1.0) -> dict[str, np.ndarray]:
    """The metrics by name, each of the shape of the counts.

    Args:
        counts: of one image, or summed over many.
        nothing: the value where there is neither a true nor a predicted object. For one image that is a perfect answer.

    Returns:
        All are 0 where only one side has objects, also those that would be 0 / 0 (precision of no prediction, ``sq``
        of no match): an empty answer never counts as a good one.
    """
    c = Counts(*(np.asarray(value, np.float64) for value in counts))
    both = np.asarray(c.truth_objects + c.predicted_objects)

    def share(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
        whole = np.asarray(whole)
        return np.where(both == 0, nothing, np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0))

    return {
        "dice": share(2 * c.common, c.truth_px + c.predicted_px),
        "iou": share(c.common, c.truth_px + c.predicted_px - c.common),
        "boundary_iou": share(c.boundary_common, c.boundary_union),
        "precision": share(c.matched_objects, c.predicted_objects),
        "recall": share(c.matched_objects, c.truth_objects),
        "f1": share(2 * c.matched_objects, both),
        "sq": share(c.matched_iou, c.matched_objects),
        "pq": share(2 * c.matched_iou, both),
        "aji": share(c.aji_common, c.aji_union),
        "aji_plus": share(c.aji_plus_common, c.aji_plus_union),
    }


def _boundaries(truth: np.ndarray, prediction: np.ndarray, width: float) -> tuple[int, int]:
    """Px of both boundaries and of either."""
    first, second = (boundary(torch.from_numpy(mask), width) for mask in (truth, prediction))
    return int((first & second).sum()), int((first | second).sum())
