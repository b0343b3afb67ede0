"""The reverse check without any image: random features, copies of the example, and distractors that resemble it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wsi_pipeline.models.matcher.match import correspondence, match

GRID, CHANNELS, INSIDE = 24, 48, 60
TRUE, FALSE = 0.6, 0.3
"""Copies and distractors, as shares of the patches inside the example."""
SHARED, RESEMBLING, NOISE = 1.0, 0.6, 0.3
"""How much of their common direction the example's patches and the distractors hold, and the deviation of a copy."""


class Outcome(NamedTuple):
    """What became of the matches.

    Attributes:
        forward: share of the matches that are true copies, before the check.
        checked: after it.
        distractors: among the matches, before and after it.
        recall: of the true copies that were matched, the share that the check keeps.
    """

    forward: float
    checked: float
    distractors: tuple[int, int]
    recall: float


def inject(seed: int) -> Outcome:
    """Match with and without the check among features of a seed."""
    random = np.random.default_rng(seed)
    patches = GRID**2
    reference = random.normal(size=(patches, CHANNELS)) / np.sqrt(CHANNELS)
    direction = _unit(random.normal(size=CHANNELS))
    inside = np.zeros(patches, bool)
    inside[random.choice(patches, INSIDE, replace=False)] = True
    reference[inside] += SHARED * direction
    reference = _unit(reference)
    target = random.normal(size=(patches, CHANNELS)) / np.sqrt(CHANNELS)
    places = random.permutation(patches)
    true, false = np.split(places[: round((TRUE + FALSE) * INSIDE)], [round(TRUE * INSIDE)])
    copied = random.choice(np.flatnonzero(inside), len(true), replace=False)
    target[true] = reference[copied] + NOISE * random.normal(size=(len(true), CHANNELS)) / np.sqrt(CHANNELS)
    resembled = random.choice(np.flatnonzero(~inside), len(false), replace=False)
    target[false] = reference[resembled] + RESEMBLING * direction
    found = match(correspondence(reference, _unit(target)), inside)
    is_true, is_false = np.isin(found.columns, true), np.isin(found.columns, false)
    return Outcome(
        float(is_true.mean()),
        float(is_true[found.kept].mean()),
        (int(is_false.sum()), int(is_false[found.kept].sum())),
        float(found.kept[is_true].mean()),
    )


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)
