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


def likelihoods(evidence: Tensor, clicks: Clicks, guidance: Tensor, settings: SelectorSettings) -> Tensor:
    """(n, M) how likely each proposal is the one that was meant: by its class, its segmenter and other clicks. Ours.

    Evidence of a class alone says little where all proposals show it, as where only one class is clicked: what is
    shown by the middle of a nucleus is a nucleus, too.

    Args:
        evidence: (n, M) in [0, 1], of the click's class.
        clicks: n.
        guidance: (n, M) S^dis, without its exponent.
        settings: say how much the class counts, and whether other clicks do.
    """
    assert settings.evidence is not None
    likely = evidence**settings.evidence
    if clicks.quality is not None:
        likely = likely * clicks.quality.clamp(0, 1)
    if settings.guidance != "none":
        likely = likely * guidance
    return likely if clicks.valid is None else likely.masked_fill(~clicks.valid, -1)


def nearest_proposal(box: Tensor, clicks: Clicks) -> Tensor:
    """(n,) int64: the proposal whose box has the highest IoU with ``box`` (n, 4)."""
    iou = paired_iou(box[:, None], clicks.proposals)
    return (iou if clicks.valid is None else iou.masked_fill(~clicks.valid, -1)).argmax(dim=1)


def ranked_proposals(scores: Tensor, clicks: Clicks) -> Tensor:
    """(n, M) int64: the proposals by falling score; ``scores`` (n, P) begin with theirs."""
    return scores[:, : clicks.proposals.shape[1]].argsort(dim=1, descending=True, stable=True)


def _with_made(valid: Tensor, count: int) -> Tensor:
    return torch.cat([valid, valid.new_ones(len(valid), count - valid.shape[1])], dim=1)
