"""Which cells of an image PA-SAM's adapter makes point prompts of: the hard ones (Xie et al. 2024).

In training the choice is random and differentiable: scores get Gumbel noise, the k best are drawn one after the other
without replacement by softmax (Xie & Ermon 2019), and every chosen cell has weight 1 with the gradient of its share.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

POINTS = 4
"""Points inside, and as many outside."""


class MinedCells(NamedTuple):
    """Cells chosen for B x P prompts.

    Attributes:
        numbers: (B, P, 8) int64, flat cell numbers: four inside, then four outside.
        weights: (B, P, 8), ones that carry the gradient; None where there is none.
        tied: (B, P, 8) bool, cells whose score is exactly zero.
    """

    numbers: Tensor
    weights: Tensor | None
    tied: Tensor


def highest(scores: Tensor) -> MinedCells:
    """The cells of highest and of lowest score (B, P, N)."""
    numbers = torch.cat([scores.topk(POINTS).indices, (-scores).topk(POINTS).indices], dim=-1)
    return MinedCells(numbers, None, _tied(scores, numbers))


def drawn(scores: Tensor, generator: torch.Generator | None = None) -> MinedCells:
    """Cells drawn by their scores (B, P, N) for training."""
    draws = [_gumbel_top_k(signed, generator) for signed in (scores, -scores)]
    numbers, weights = (torch.cat(parts, dim=-1) for parts in zip(*draws, strict=True))
    return MinedCells(numbers, weights, _tied(scores, numbers))


def _tied(scores: Tensor, numbers: Tensor) -> Tensor:
    return scores.take_along_dim(numbers, dim=-1) == 0


def _gumbel_top_k(scores: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Numbers (B, P, k) of cells drawn by (B, P, N) scores, and ones with the gradient of their shares."""
    noise = -torch.empty_like(scores).exponential_(generator=generator).log()
    logits = scores + noise
    share = shares = torch.zeros_like(scores)
    for _ in range(POINTS):
        logits = logits + (1 - share).clamp(min=torch.finfo(scores.dtype).tiny).log()
        share = logits.softmax(dim=-1)
        shares = shares + share
    numbers = shares.topk(POINTS).indices
    chosen = shares.take_along_dim(numbers, dim=-1)
    return numbers, chosen - chosen.detach() + 1
