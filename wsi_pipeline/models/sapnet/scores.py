"""Multiple instance learning with two branches: of which class is a proposal, and is it the best of its bag?

A bag holds the M proposals of one object. Shapes: n objects, C classes, logits (n, M, C).
"""

from __future__ import annotations

import torch
from torch import Tensor


def share_of_bag(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """S^ins (n, M, C): softmax over the proposals of a bag; those not ``valid`` (n, M) have no share."""
    shares = logits.softmax(dim=1)
    if valid is None:
        return shares
    shares = shares * valid[..., None]
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)


def class_scores(cls_logits: Tensor, ins_logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """S^cls · S^ins (n, M, C): softmax over classes times the share of the bag."""
    return cls_logits.softmax(dim=-1) * share_of_bag(ins_logits, valid)


def of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """(n, M) scores of each object's own class of (n, M, C)."""
    return scores[torch.arange(len(labels), device=labels.device), :, labels]
