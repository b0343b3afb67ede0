"""The second choice, among boxes around the first (Proposals Refinement Module), and the masks that it stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_pipeline.models.sapnet.boxes import paired_iou
from wsi_pipeline.models.sapnet.scores import class_scores, of_label
from wsi_pipeline.models.sapnet.selection import Choice, Clicks, choose
from wsi_pipeline.models.sapnet.settings import SelectorSettings


def refine_proposals(
    cls_logits: Tensor, ins_logits: Tensor, clicks: Clicks, positives: Tensor, settings: SelectorSettings
) -> Choice:
    """The second choice.

    Classes compete (softmax), as published, though the loss lets each stand for itself (sigmoid).

    Args:
        cls_logits, ins_logits: (n, P, C).
        clicks: n.
        positives: (n, P, 4) px, of ``ProposalGenerator``; the first M are the proposals.
        settings: say whether boxes are mined.
    """
    valid = None if clicks.valid is None else _with_made(clicks.valid, positives.shape[1])
    scores = of_label(class_scores(cls_logits, ins_logits, valid), clicks.labels)
    return choose(cls_logits, ins_logits, positives, scores, clicks, valid, settings)


def nearest_proposal(box: Tensor, clicks: Clicks) -> Tensor:
    """(n,) int64: the proposal whose box has the highest IoU with ``box`` (n, 4)."""
    iou = paired_iou(box[:, None], clicks.proposals)
    return (iou if clicks.valid is None else iou.masked_fill(~clicks.valid, -1)).argmax(dim=1)


def ranked_proposals(scores: Tensor, clicks: Clicks) -> Tensor:
    """(n, M) int64: the proposals by falling score; ``scores`` (n, P) begin with theirs."""
    return scores[:, : clicks.proposals.shape[1]].argsort(dim=1, descending=True, stable=True)


def _with_made(valid: Tensor, count: int) -> Tensor:
    return torch.cat([valid, valid.new_ones(len(valid), count - valid.shape[1])], dim=1)
