"""Losses that only look at px somebody knows: beyond a tile's edge images are made up, and regions may be unannotated.

Where a loss looks at every px, unknown ones get an answer that costs nothing and has no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.training.batches import View
from wsi_pipeline.training.boundary import boundary_label
from wsi_pipeline.training.losses import INSIDE, MaskLoss, PaSettings, mask_loss
from wsi_pipeline.training.point_sampling import PointSampling, read_at, sample_points

_SURE = 50.0
"""Logit whose loss is 0 in float32."""
_ALL = 0.999
"""Share of a bilinear value that has to come from known px."""


def logits_where_known(logits: Tensor, view: View) -> Tensor:
    """Logits (B, P, h, w) enlarged to the targets' px (B, P, S, S), unknown ones surely background."""
    large = F.interpolate(logits.float(), view.targets.shape[-2:], mode="bilinear", align_corners=False)
    return large.where(view.known, -_SURE)


def uncertainty_where_known(uncertainty: Tensor, view: View) -> Tensor:
    """PA-SAM's U (B, P, h, w) enlarged to the targets' px as published, unknown ones as their label has them."""
    large = F.interpolate(uncertainty.float(), view.targets.shape[-2:], mode="bilinear", align_corners=True)
    return large.where(view.known, boundary_label(view.targets > INSIDE, PaSettings().boundary).float())


def sampled_loss(logits: Tensor, view: View, generator: torch.Generator) -> MaskLoss:
    """``hq_loss`` of logits (B, P, h, w) at points that draw on known px alone.

    Points within half a px of the patch's edge, where values fade, are left out, too.
    """
    points = sample_points(_unsure_where_known(logits, view), PointSampling(), generator)
    known = view.known.float().expand_as(view.targets)
    where = read_at(known, points) > _ALL
    return mask_loss(read_at(logits, points), read_at(view.targets, points), where=where)


def _unsure_where_known(logits: Tensor, view: View) -> Tensor:
    """Logits for choosing points by, of px that are not worth one where nothing is known."""
    known = F.interpolate(view.known.float(), logits.shape[-2:], mode="area") > _ALL
    return logits.detach().where(known, -_SURE)
