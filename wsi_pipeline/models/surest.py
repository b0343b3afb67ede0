"""Which of the objects on a patch are kept where there are too many."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.models.roles import Instances


def surest(groups: list[Instances], most: int, *, least: float = 0.0) -> list[Instances]:
    """At most so many objects, those with the best scores, and none with a lower one than ``least``."""
    if not groups:
        return []
    scores = np.concatenate([group.scores for group in groups])
    kept = np.zeros(len(scores), bool)
    kept[np.argsort(-scores, kind="stable")[:most]] = True
    kept &= scores >= least
    parts = np.split(kept, np.cumsum([len(group) for group in groups])[:-1])
    return [group.take(np.flatnonzero(part)) for group, part in zip(groups, parts, strict=True) if part.any()]
