"""How good a head is on samples it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.training.head import Batches, Head


@torch.no_grad()
def validate(head: Head[Any], batches: Batches[Any], numbers: Sequence[int]) -> dict[str, float]:
    """What a head is judged by, see ``Head.judgement``, on the samples of these numbers that show objects.

    Raises:
        TrainingError: none of them shows an object.
    """
    head.module.eval()
    scores = []
    for number in numbers:
        parts = [head.scores(part).double().cpu() for part in batches.validation(number)]
        scores += [torch.cat(parts, dim=1)] if parts else []
    if not scores:
        fix = "Add annotated validation samples, or lower min_object"
        raise TrainingError("no validation sample shows an object in its middle", where="val", fix=fix)
    return head.judgement.of(scores)
