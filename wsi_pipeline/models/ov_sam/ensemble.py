"""Two opinions on a region put together: that of the trained head and that of the frozen image-text encoder."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

ALPHA = 0.1
"""Weight of the frozen encoder for classes that the head was trained on (§4.1)."""
BETA = 0.9
"""The same for new classes."""
_NEVER = -1000.0


def fuse(
    head: Tensor,
    clip: Tensor,
    *,
    base: Collection[int] = (),
    novel: Collection[int] | None = None,
    alpha: float = ALPHA,
    beta: float = BETA,
    valid: Tensor | None = None,
) -> Tensor:
    """Log of the geometric mean of two distributions, weighed by how new a class is.

    Args:
        head: (N, K + 1) logits of the head; the last column is "no class".
        clip: (N, K + 1) logits of the frozen encoder.
        base: numbers of the classes that the head was trained on.
        novel: numbers of the others; a class in neither is never chosen. None: all that are not in ``base``.
        alpha: weight of ``clip`` for base classes and "no class".
        beta: weight of ``clip`` for novel classes.
        valid: (N,) bool, where ``clip`` saw the region at all; elsewhere it has no say. None for everywhere.

    Returns:
        (N, K + 1) logarithms, not normalised.
    """
    count = head.shape[1] - 1
    weight = head.new_full((count + 1,), beta)
    weight[[*base, count]] = alpha
    weights = weight.expand_as(head)
    if valid is not None:
        weights = torch.where(valid[:, None], weights, 0)
    fused = (1 - weights) * head.log_softmax(dim=1) + weights * clip.log_softmax(dim=1)
    if novel is not None:
        neither = [number for number in range(count) if number not in {*base, *novel}]
        fused[:, neither] = _NEVER
    return fused
