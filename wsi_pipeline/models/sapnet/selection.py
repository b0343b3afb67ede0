"""The first choice among the proposals of a click (Proposal Selection Module)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wsi_pipeline.models.sapnet.box_mining import box_mining
from wsi_pipeline.models.sapnet.scores import class_scores, of_label
from wsi_pipeline.models.sapnet.settings import SelectorSettings

TRIO = 3
"""SAM's answers at the working resolution, which come first among the proposals; box mining looks at them alone."""


@dataclass(frozen=True, slots=True)
class Clicks:
    """n clicks on B patches and the proposals for each.

    Attributes:
        points: (n, 2) float32 (x, y) px of the patch.
        labels: (n,) int64 classes from 0 on.
        image_index: (n,) int64, the patch of each.
        proposals: (n, M, 4) float32 boxes ``x0, y0, x1, y1`` px, exclusive, of M masks; the first three are SAM's
            three answers at the working resolution.
        valid: (n, M) bool, proposals that show anything; None for all.
        quality: (n, M) in [0, 1], what their segmenter thinks of the masks; None where it did not say.
    """

    points: Tensor
    labels: Tensor
    image_index: Tensor
    proposals: Tensor
    valid: Tensor | None = None
    quality: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for each of n clicks among M boxes.

    Attributes:
        cls_logits, ins_logits: (n, M, C) as the loss takes them.
        boxes: (n, M, 4) px, what there was to choose from.
        scores: (n, M) in [0, 1], of the click's class.
        best: (n,) int64, the box of the highest score.
        before_mining: (n, 4) that box.
        box: (n, 4) what box mining made of it.
        valid: (n, M) bool, boxes that show anything; None for all.
    """

    cls_logits: Tensor
    ins_logits: Tensor
    boxes: Tensor
    scores: Tensor
    best: Tensor
    before_mining: Tensor
    box: Tensor
    valid: Tensor | None

    @property
    def weight(self) -> Tensor:
        """(n,) how sure the class is: the sum of the scores, without gradient."""
        return self.scores.detach().sum(dim=1)


def select_proposals(
    cls_logits: Tensor, ins_logits: Tensor, clicks: Clicks, guidance: Tensor, settings: SelectorSettings
) -> Choice:
    """The first choice.

    Args:
        cls_logits, ins_logits: (n, M, C + 1), background last.
        clicks: n.
        guidance: (n, M) S^dis of ``point_distance_guidance``.
        settings: say what guidance multiplies, and whether boxes are mined.
    """
    softened = guidance[..., None] ** settings.d
    scores = of_label(class_scores(cls_logits, ins_logits, clicks.valid), clicks.labels)
    if settings.guidance == "score":
        scores = scores * softened[..., 0]
    elif settings.guidance == "logits":
        cls_logits = cls_logits * softened
    return choose(cls_logits, ins_logits, clicks.proposals, scores, clicks, clicks.valid, settings)


def choose(
    cls_logits: Tensor,
    ins_logits: Tensor,
    boxes: Tensor,
    scores: Tensor,
    clicks: Clicks,
    valid: Tensor | None,
    settings: SelectorSettings,
) -> Choice:
    """The box of the highest score, mined towards SAM's three answers; arguments as the attributes of ``Choice``."""
    best = scores.argmax(dim=1)
    chosen = boxes[torch.arange(len(best), device=best.device), best]
    mined = chosen
    if settings.mining:
        trio = clicks.proposals[:, :TRIO]
        mined = box_mining(chosen, trio, slack=settings.slack, slack_share=settings.slack_share)
    return Choice(cls_logits, ins_logits, boxes, scores, best, chosen, mined, valid)
