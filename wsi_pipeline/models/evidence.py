"""What a segmenter draws, and coarse evidence of another kind: of likeness to an example, or of words."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.segment.components import own_logits, own_parts

STRONGEST = 4.0
"""Logit beyond which evidence counts no more, either way: where a segmenter is surer, it keeps its word."""


def with_evidence(logits: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """(N, h, w) float32 logits of N masks, with evidence added to them.

    Nothing becomes part of a mask that does not touch it: what fits beside it is another object.

    Args:
        logits: (N, h, w) float32 of a segmenter.
        evidence: (N, h, w), or (h, w) for all masks, in logits.
    """
    result = (logits + np.clip(evidence, -STRONGEST, STRONGEST)).astype(np.float32)
    return own_logits(result, own_parts(result, logits > 0, parts="every"))
