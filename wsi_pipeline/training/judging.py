"""What epochs are judged by: which numbers there are, how scores of objects add up to them, and which one decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a kind of head is judged.

    Attributes:
        names: of the M numbers, as columns of the curves; all 0..1.
        best: the one of them that the best epoch has most of.
        summary: makes (M,) numbers of what ``Head.scores`` gave of each sample's objects, (R, N) float64.
        what: the numbers are, with ``{split}`` for the samples'.
    """

    names: tuple[str, ...]
    best: str
    summary: Callable[[Sequence[Tensor]], Tensor]
    what: str

    def of(self, scores: Sequence[Tensor]) -> dict[str, float]:
        """The numbers by name."""
        return dict(zip(self.names, self.summary(scores).tolist(), strict=True))


def _mean_of_means(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([one.mean(dim=1) for one in scores]).mean(dim=0)


def _share_named(scores: Sequence[Tensor]) -> Tensor:
    true, said = torch.cat(list(scores), dim=1)
    right = (true == said).double()
    by_class = [right[true == one].mean() for one in true.unique()]
    return torch.stack([right.mean(), torch.stack(by_class).mean()])


BY_MASKS = Judgement(
    ("dice", "boundary_iou"),
    "boundary_iou",
    _mean_of_means,
    "means over {split} samples of the means over their objects",
)
"""Scores are the Dice and boundary IoU of objects."""

BY_NAMES = Judgement(
    ("accuracy", "balanced_accuracy"),
    "balanced_accuracy",
    _share_named,
    "share of the objects of {split} samples that are named rightly, and its mean over classes",
)
"""Scores are the numbers of the true and of the said class of objects."""
