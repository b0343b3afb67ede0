"""What LoRA-SAM learns from: torchvision's losses of boxes, and those of the masks of boxes that show objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.box_heads import Shown, Truth
from wsi_pipeline.models.lora_sam.boxed import BoxedLoraSam
from wsi_pipeline.models.lora_sam.domain_decoder import DomainDecoderLoraSam
from wsi_pipeline.models.lora_sam.model import LoraSam
from wsi_pipeline.training.domain_loss import domain_loss
from wsi_pipeline.training.domain_target import Target, maps_of
from wsi_pipeline.training.losses import mask_loss

_WHOLLY = 0.999
"""A cell whose px are all known is known."""


def lora_losses(
    model: LoraSam, pixels: Tensor, truths: Sequence[Truth], *, most: int, dice: float = 0.0
) -> dict[str, Tensor]:
    """The losses of a batch by name, scalars, all of weight 1 in their sum.

    Args:
        model: in training mode.
        pixels: (B, 3, S, S) of values 0..255.
        truths: of each image, with an object at least.
        most: objects of an image whose masks are drawn, at random.
        dice: weight of Dice beside the masks' cross entropy; RSPrompter has 0.
    """
    seen = model.encode(pixels)
    if isinstance(model, DomainDecoderLoraSam):
        return {"loss_maps": domain_loss(model.maps(seen), _target_of(truths, model.settings.n_classes))}
    assert isinstance(model, BoxedLoraSam)
    levels = model.neck(seen)
    losses, shown = model.head.box_losses(levels, truths)
    drawn = [_some(one, most) for one in shown]
    losses["loss_mask"] = _mask_loss(model, seen, levels, truths, drawn, dice)
    return losses


def _some(shown: Shown, most: int) -> Shown:
    chosen = torch.randperm(len(shown.boxes), device=shown.boxes.device)[:most]
    return Shown(shown.boxes[chosen], shown.truth[chosen])


def _mask_loss(
    model: BoxedLoraSam,
    seen: EncoderOutput,
    levels: Sequence[Tensor],
    truths: Sequence[Truth],
    drawn: Sequence[Shown],
    dice: float,
) -> Tensor:
    pairs = list(zip(truths, drawn, strict=True))
    boxes, labels = [one.boxes for _, one in pairs], [truth.labels[one.truth] for truth, one in pairs]
    logits = model.mask_logits(seen, levels, boxes, labels)
    wanted = torch.cat([model.at_logits(truth.masks[one.truth].float(), one.boxes) for truth, one in pairs])
    every = [truth.known.float().expand(len(one.boxes), -1, -1) for truth, one in pairs]
    known = torch.cat([model.at_logits(maps, one.boxes) for maps, (_, one) in zip(every, pairs, strict=True)])
    elements = (part.flatten(1).unsqueeze(0) for part in (logits, wanted, known > _WHOLLY))
    predicted, target, where = elements
    found = mask_loss(predicted, target, where=where)
    return found.bce + dice * found.dice


def _target_of(truths: Sequence[Truth], n_classes: int) -> Target:
    """Maps of images whose classes are all annotated."""
    every = [_maps_of(truth, n_classes) for truth in truths]
    device = truths[0].known.device
    return Target(*(torch.from_numpy(np.stack(arrays)).to(device) for arrays in zip(*every, strict=True)))


def _maps_of(truth: Truth, n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    masks = (truth.masks & truth.known).cpu().numpy()
    numbers = np.arange(1, len(masks) + 1, dtype=np.int32)
    labels = (masks * numbers[:, None, None]).max(axis=0)
    class_of = np.concatenate([[0], truth.labels.cpu().numpy()])
    return maps_of(labels, truth.known.cpu().numpy(), class_of, np.ones(n_classes, bool))
