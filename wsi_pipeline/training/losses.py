"""Losses of HQ-SAM, PA-SAM and WSI-SAM; all are sums of binary cross entropy and Dice with weights of 1.

They differ in where the masks are compared: HQ-SAM at sampled points, WSI-SAM and PA-SAM at every px of the target.
Dice losses are computed as a ratio of two sums that cannot cancel, from

    1 - (2 |pt| + s) / (|p| + |t| + s)  =  (|p| + |t| - 2 |pt|) / (|p| + |t| + s)

so that a nearly perfect mask still has a gradient worth following. Everything is float32 whatever the decoder
computes in. Every loss is a mean over the masks of a batch.

Shapes: B images, P prompts; logits (B, P, h, w); targets (B, P, H, W) in [0, 1], soft where a mask was resized; E
elements of a mask, be they px or points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.training.boundary import boundary_label
from wsi_pipeline.training.point_sampling import read_at

INSIDE = 0.5
"""A target above this is inside."""


@dataclass(frozen=True, slots=True)
class DiceForm:
    """Which Dice.

    Attributes:
        smooth: s, added above and below.
        squared: sum squares of p and t in the denominator.
    """

    smooth: float = 1.0
    squared: bool = False


WSI_DICE = DiceForm(smooth=1e-5, squared=True)
"""As MONAI's loss in WSI-SAM's training script; HQ-SAM's and PA-SAM's is the default form."""


@dataclass(frozen=True, slots=True)
class PaSettings:
    """Numbers of PA-SAM's losses (its ``utils/losses.py``).

    Attributes:
        gate: where the uncertainty U reaches this, the refined map is trained, elsewhere the coarse one.
        boundary: how far from a contour U should be 1, as a share of the image diagonal.
    """

    gate: float = 0.5
    boundary: float = 0.005


class MaskLoss(NamedTuple):
    """Both parts, scalars."""

    bce: Tensor
    dice: Tensor

    def total(self) -> Tensor:
        return self.bce + self.dice


class WsiLoss(NamedTuple):
    """WSI-SAM's two branches."""

    high: MaskLoss
    low: MaskLoss

    def total(self) -> Tensor:
        return self.high.total() + self.low.total()


class PaLoss(NamedTuple):
    """PA-SAM's three losses.

    Attributes:
        whole: of the mask.
        split: of the coarse and the refined map, each where it is responsible.
        uncertainty: scalar, of the map that says which one is.
    """

    whole: MaskLoss
    split: MaskLoss
    uncertainty: Tensor

    def total(self) -> Tensor:
        return self.whole.total() + self.split.total() + self.uncertainty


def hq_loss(logits: Tensor, target: Tensor, points: Tensor) -> MaskLoss:
    """HQ-SAM's loss of the high-quality mask, at points (B, P, N, 2) from ``sample_points(logits, ...)``."""
    return mask_loss(read_at(logits, points), read_at(target, points))


def wsi_loss(high: Tensor, low: Tensor, high_target: Tensor, low_target: Tensor) -> WsiLoss:
    """WSI-SAM's loss.

    Args:
        high, low: (B, P, h, w) logits of the joint vector on each patch's features, without SAM's mask.
        high_target, low_target: (B, P, H, W) the masks in each patch.
    """
    return WsiLoss(_whole_loss(high, high_target, WSI_DICE), _whole_loss(low, low_target, WSI_DICE))


def pa_loss(
    masks: Tensor,
    coarse: Tensor,
    refined: Tensor,
    uncertainty: Tensor,
    target: Tensor,
    settings: PaSettings | None = None,
) -> PaLoss:
    """PA-SAM's loss.

    Args:
        masks: (B, P, h, w) logits of the decoder's answer.
        coarse, refined: (B, P, h', w') logits of the adapter's two maps.
        uncertainty: (B, P, h', w') U in [0, 1]; gets no gradient from the split that it decides.
        target: (B, P, H, W).
        settings: None for the published numbers.
    """
    settings = settings or PaSettings()
    return PaLoss(
        whole=_whole_loss(masks, target),
        split=_split_loss(coarse, refined, uncertainty, target, settings.gate),
        uncertainty=_uncertainty_loss(uncertainty, target, settings.boundary),
    )


def _whole_loss(logits: Tensor, target: Tensor, form: DiceForm | None = None) -> MaskLoss:
    """Compare at every px of the target."""
    return mask_loss(_enlarged(logits, target).flatten(2), target.flatten(2), form)


def _split_loss(coarse: Tensor, refined: Tensor, uncertainty: Tensor, target: Tensor, gate: float) -> MaskLoss:
    unsure = _enlarged(uncertainty.detach(), target).flatten(2) >= gate
    sure_loss, unsure_loss = (
        mask_loss(_enlarged(maps, target).flatten(2), target.flatten(2), where=where)
        for maps, where in ((coarse, ~unsure), (refined, unsure))
    )
    return MaskLoss(sure_loss.bce + unsure_loss.bce, sure_loss.dice + unsure_loss.dice)


def _uncertainty_loss(uncertainty: Tensor, target: Tensor, width: float) -> Tensor:
    """Binary cross entropy of U with the boundary label."""
    label = boundary_label(target > INSIDE, width)
    # published with aligned corners, unlike every other resizing
    enlarged = F.interpolate(uncertainty.float(), target.shape[-2:], mode="bilinear", align_corners=True)
    right = torch.where(label, enlarged, 1 - enlarged)
    # torch's own function refuses values that resizing rounded to just above 1, and regions of lower precision
    return -right.clamp(min=torch.finfo(torch.float32).tiny).log().mean()


def _enlarged(maps: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(maps.float(), target.shape[-2:], mode="bilinear", align_corners=False)


def mask_loss(logits: Tensor, target: Tensor, form: DiceForm | None = None, *, where: Tensor | None = None) -> MaskLoss:
    """Both losses of masks given as elements.

    Args:
        logits: (B, P, E) predictions.
        target: (B, P, E) in [0, 1].
        form: of Dice; None for HQ-SAM's and PA-SAM's.
        where: (B, P, E) bool, elements that count; None for all. A mask without any has a loss of 0.
    """
    logits, target = logits.float(), target.float()
    return MaskLoss(bce_loss(logits, target, where=where), dice_loss(logits, target, form, where=where))


def bce_loss(logits: Tensor, target: Tensor, *, where: Tensor | None = None) -> Tensor:
    """Binary cross entropy, a mean over elements and then over masks; arguments as in ``mask_loss``."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if where is None:
        return loss.mean()
    return ((loss * where).sum(-1) / where.sum(-1).clamp(min=1)).mean()


def dice_loss(logits: Tensor, target: Tensor, form: DiceForm | None = None, *, where: Tensor | None = None) -> Tensor:
    """1 - Dice of each mask, a mean over masks; arguments as in ``mask_loss``."""
    form = form or DiceForm()
    p = logits.sigmoid()
    if form.squared:
        error, size = (p - target).square(), p.square() + target.square()
    else:
        error, size = p * (1 - target) + target * (1 - p), p + target
    if where is not None:
        error, size = error * where, size * where
    return (error.sum(-1) / (size.sum(-1) + form.smooth)).mean()
