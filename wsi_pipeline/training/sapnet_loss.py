"""What SAPNet learns from: bags of proposals, boxes around the chosen ones, and the chosen masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from wsi_pipeline.models.sapnet.network import Chosen, SapNet
from wsi_pipeline.models.sapnet.scores import class_scores, share_of_bag
from wsi_pipeline.models.sapnet.selection import Choice, Clicks
from wsi_pipeline.models.sapnet.settings import SelectorSettings
from wsi_pipeline.models.sapnet.solo_head import SoloMaps, by_cell
from wsi_pipeline.training.solo_targets import SoloTargets, shrink, solo_targets

_EPSILON = 1e-6
_DICE_EPSILON = 1e-3
"""Added to the size of either mask."""
_ALPHA, _GAMMA = 0.25, 2.0
"""Of the focal loss of categories."""


def sapnet_losses(
    model: SapNet,
    levels: Sequence[Tensor],
    clicks: Clicks,
    masks: Tensor | None,
    size: tuple[int, int],
    *,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The losses of a batch by name, scalars, of weight 1 in their sum.

    Args:
        model: in training mode.
        levels: of B patches.
        clicks: on them, one at least.
        masks: (n, M, height, width) bool masks of the proposals; None without an instance branch.
        size: (height, width) px of the patches.
        generator: draws negatives.
    """
    chosen = model.select(levels, clicks, size, generator=generator)
    losses = selector_losses(chosen, clicks.labels, model.settings.selector)
    if model.head is not None:
        assert masks is not None
        ranked = masks[torch.arange(len(masks), device=masks.device)[:, None], _learned(chosen, clicks)]
        boxes = chosen.box.clone()
        if model.settings.selector.published:
            boxes[:, 2:] += 1
        losses |= solo_losses(model, levels, clicks.image_index, clicks.labels, boxes, ranked)
    return losses


def _learned(chosen: Chosen, clicks: Clicks) -> Tensor:
    """(n, K) int64 the proposals whose masks are learned: the chosen one, then those of rank 1, 3, 5."""
    mask, others = chosen.mask[:, None], chosen.ranks[:, 1::2]
    if clicks.valid is not None:
        others = torch.where(clicks.valid.gather(1, others), others, mask)
    return torch.cat([mask, others], dim=1)


def selector_losses(chosen: Chosen, labels: Tensor, settings: SelectorSettings) -> dict[str, Tensor]:
    """The losses of both choices by name, as ``sapnet_losses``."""
    losses = {"loss_psm": settings.weight * bag_loss(chosen.first, labels)}
    if chosen.second is not None:
        weights = chosen.first.weight
        losses["loss_prm_positive"] = settings.alpha * positive_loss(chosen.second, labels, weights)
        if chosen.negatives is not None:
            boxes, logits = chosen.negatives
            losses["loss_prm_negative"] = (1 - settings.alpha) * negative_loss(logits[boxes.valid], weights)
    return losses


def bag_loss(choice: Choice, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Of stage one: binary cross entropy of each bag's classes, background among them, a mean over n objects.

    Args:
        choice: of stage one.
        labels: (n,) int64.
        weights: (n,) of the objects; None for 1, as in training.
    """
    bag = class_scores(choice.cls_logits, choice.ins_logits, choice.valid).sum(dim=1).clamp(0, 1)
    loss = F.binary_cross_entropy(bag, _one_hot(labels, bag), reduction="none").sum(dim=1)
    return (loss if weights is None else loss * weights).mean()


def positive_loss(choice: Choice, labels: Tensor, weights: Tensor) -> Tensor:
    """Of stage two: generalised focal loss of each bag's classes, a mean over n objects of ``weights`` (n,)."""
    bag = (choice.cls_logits.sigmoid() * share_of_bag(choice.ins_logits, choice.valid)).sum(dim=1)
    return (generalised_focal(bag, _one_hot(labels, bag)) * weights).mean()


def negative_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """Of stage two: the same of boxes (K, C) that show no object, for each of the objects of ``weights`` (n,)."""
    p = logits.sigmoid()
    return weights.mean() * generalised_focal(p, torch.zeros_like(p)).sum() / len(weights)


def generalised_focal(p: Tensor, q: Tensor) -> Tensor:
    """(...) cross entropy of probabilities p (..., C) with q, weighted by their squared difference, over classes."""
    entropy = q * (p + _EPSILON).log() + (1 - q) * (1 - p + _EPSILON).log()
    return -((p - q).square() * entropy).sum(dim=-1)


def solo_losses(
    model: SapNet, levels: Sequence[Tensor], image_index: Tensor, labels: Tensor, boxes: Tensor, masks: Tensor
) -> dict[str, Tensor]:
    """Losses of the instance branch alone, by name, as ``sapnet_losses``.

    Args:
        model: in training mode.
        levels: of B patches.
        image_index, labels: (n,) int64.
        boxes: (n, 4) px.
        masks: (n, K, height, width) bool: the mask to learn, then others of less weight.
    """
    assert model.head is not None
    solo, maps = model.settings.solo, model.head(levels)
    targets = solo_targets(
        masks[:, 0],
        boxes,
        labels,
        image_index,
        images=len(maps.feature),
        classes=len(model.settings.classes),
        grids=solo.grids,
        scale_ranges=solo.scale_ranges,
        sigma=solo.sigma,
    )
    small = shrink(masks, round(model.strides[0]))
    return {
        "loss_mask": solo.dice * mask_loss(maps, targets, small, extra=solo.extra),
        "loss_category": category_loss(maps, targets),
    }


def mask_loss(maps: SoloMaps, targets: SoloTargets, masks: Tensor, *, extra: float) -> Tensor:
    """Dice of the masks that cells draw, a mean over cells that answer for an object.

    Args:
        maps: what the head says.
        targets: of its cells.
        masks: (n, K, h, w) bool in cells of the mask feature: what to draw, then others.
        extra: weight of the others; published: 0.5, each counting a sixth.
    """
    kernels = by_cell(maps.kernels)
    if not len(targets.object):
        return kernels.sum() * 0
    drawn, wanted = [], []
    for number, feature in enumerate(maps.feature):
        here = targets.image == number
        drawn.append((kernels[number, targets.cell[here]] @ feature.flatten(1)).sigmoid())
        wanted.append(masks[targets.object[here]].flatten(2))
    p, q = torch.cat(drawn), torch.cat(wanted)
    first, *others = (dice(p, one).mean() for one in q.unbind(dim=1))
    return first + extra * torch.stack(others).sum() / (2 * len(others)) if others else first


def dice(p: Tensor, q: Tensor) -> Tensor:
    """(P,) 1 - Dice of probabilities p (P, E) with masks q (P, E), by sums of squares."""
    q = q.to(p)
    error, size = (p - q).square().sum(dim=1), (p.square() + q.square()).sum(dim=1)
    return (error + 2 * _DICE_EPSILON) / (size + 2 * _DICE_EPSILON)


def category_loss(maps: SoloMaps, targets: SoloTargets) -> Tensor:
    """Focal loss of the classes of all cells, over the number of those that answer for an object, and one."""
    logits = by_cell(maps.categories)
    wanted = F.one_hot(targets.labels, logits.shape[2] + 1)[..., :-1].to(logits)
    loss = sigmoid_focal_loss(logits, wanted, alpha=_ALPHA, gamma=_GAMMA, reduction="sum")
    return loss / (len(targets.object) + 1)


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(labels, like.shape[1]).to(like)
