"""What a segmenter draws, and coarse evidence of another kind: of likeness to an example, or of words."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from wsi_pipeline.models.segmenter import BACKGROUND_LOGIT

DOUBTFUL = 4.0
"""Logit up to which a segmenter may be talked out of what it says of a px."""


def settled(logits: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """(N, h, w) float32 logits of N masks, with evidence added to them.

    Where a mask is sure nothing changes, and nothing becomes part of it that does not touch it: what fits beside it is
    another object.

    Args:
        logits: (N, h, w) float32 of a segmenter.
        evidence: (N, h, w), or (h, w) for all masks, in logits.
    """
    result = (logits + np.clip(evidence, -DOUBTFUL, DOUBTFUL)).astype(np.float32)
    for one, mask in zip(result, logits > 0, strict=True):
        pieces, _ = ndimage.label(one > 0)
        one[(one > 0) & ~np.isin(pieces, pieces[mask])] = BACKGROUND_LOGIT
    return result
