"""Box Mining Strategy: a chosen box that is only a part grows towards larger proposals that agree with it."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_pipeline.models.sapnet.boxes import area_of, paired_iou

_SURE, _POSSIBLE = 0.6, 0.3
"""IoU beyond which a larger proposal counts, and beyond which one that contains the box does."""


def box_mining(box: Tensor, proposals: Tensor, *, slack: float = 2.0, slack_share: float | None = None) -> Tensor:
    """Grow boxes.

    Args:
        box: (n, 4) float32 ``x0, y0, x1, y1`` px, the chosen ones.
        proposals: (n, K, 4) to look at in their order; published: SAM's three answers.
        slack: px by which a box may stick out of a proposal that contains it.
        slack_share: at most this share of the box's shorter side; published: None.

    Returns:
        (n, 4).
    """
    best, area = torch.zeros_like(box[:, 0]), area_of(box)
    for proposal in proposals.unbind(dim=1):
        iou, size = paired_iou(box, proposal), area_of(proposal)
        better = (size > area) & (iou > best)
        sure = better & (iou > _SURE)
        possible = better & ~sure & (iou > _POSSIBLE) & _contained(box, proposal, slack, slack_share)
        v = iou[:, None]
        box = torch.where(sure[:, None], (proposal + v * box) / (1 + v), box)
        box = torch.where(possible[:, None], (v * proposal + box) / (1 + v), box)
        moved = sure | possible
        best, area = torch.where(moved, iou, best), torch.where(moved, size, area)
    return box


def _contained(box: Tensor, proposal: Tensor, slack: float, share: float | None) -> Tensor:
    limit = torch.full_like(box[:, 0], slack)
    if share is not None:
        limit = torch.minimum(limit, share * (box[:, 2:] - box[:, :2]).amin(dim=1))
    out = torch.cat([proposal[:, :2] - box[:, :2], box[:, 2:] - proposal[:, 2:]], dim=1)
    return (out <= limit[:, None]).all(dim=1)
