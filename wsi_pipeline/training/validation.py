"""How good a head is on samples it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.training.head import Batches, Head


class Score(NamedTuple):
    """Means over samples of the means over their objects; 0..1."""

    dice: float
    boundary_iou: float


@torch.no_grad()
def validate(head: Head[Any], batches: Batches[Any], numbers: Sequence[int]) -> Score:
    """Score a head on the samples of these numbers; those without objects do not count.

    Raises:
        TrainingError: none of them shows an object.
    """
    head.module.eval()
    scores = []
    for number in numbers:
        parts = [head.scores(part).double().cpu() for part in batches.validation(number)]
        scores += [torch.cat(parts, dim=1).mean(dim=1)] if parts else []
    if not scores:
        fix = "Add annotated validation samples, or lower min_object"
        raise TrainingError("no validation sample shows an object in its middle", where="val", fix=fix)
    return Score(*torch.stack(scores).mean(dim=0).tolist())
