"""How good a head is on samples it was not trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.training.boundary import boundary_iou, mask_iou
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.losses import INSIDE
from wsi_pipeline.training.prompted_batches import PromptedBatch, PromptedBatches


class Score(NamedTuple):
    """Means over samples of the means over their objects, each asked for with its box; 0..1."""

    dice: float
    boundary_iou: float


@torch.no_grad()
def validate(head: Head, batches: PromptedBatches, numbers: list[int]) -> Score:
    """Score a head on the samples of these numbers; those without objects do not count.

    Raises:
        TrainingError: none of them shows an object.
    """
    head.module.eval()
    scores = [score for number in numbers if (score := _of_sample(head, batches, number)) is not None]
    if not scores:
        fix = "Add annotated validation samples, or lower min_object"
        raise TrainingError("no validation sample shows an object in its middle", where="val", fix=fix)
    return Score(*torch.stack(scores).mean(dim=0).tolist())


def _of_sample(head: Head, batches: PromptedBatches, number: int) -> Tensor | None:
    """(2,) Dice and boundary IoU."""
    parts = [_of_batch(head, asked_batch) for asked_batch in batches.validation(number)]
    return torch.cat(parts, dim=1).mean(dim=1) if parts else None


def _of_batch(head: Head, asked_batch: PromptedBatch) -> Tensor:
    """(2, B * P) Dice and boundary IoU, at the patch's px."""
    view = asked_batch.batch.high
    logits = head.answer(asked_batch.batch, asked_batch.asked)
    large = F.interpolate(logits, view.targets.shape[-2:], mode="bilinear", align_corners=False)
    predicted, target = (large > 0) & view.known, view.targets > INSIDE
    iou = mask_iou(predicted, target)
    return torch.stack([2 * iou / (1 + iou), boundary_iou(predicted, target)]).flatten(1).double().cpu()
