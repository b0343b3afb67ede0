"""Trained WSI-SAM heads with one part taken out, to see what each part is good for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.heads.subjects import DEVICE, PRECISION, Model
from wsi_pipeline.models.builders import DTYPES, load_wsi_sam
from wsi_pipeline.models.hq_decoder import HqMaskDecoder
from wsi_pipeline.models.resolve import wsi_sam_plan
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.models.segmenter import PairEmbedding
from wsi_pipeline.models.wsi_sam import WsiSam, WsiSamSegmenter
from wsi_pipeline.workflow import ModelSettings

SYSTEM = "wsi-sam"


class OneResolution(WsiSamSegmenter):
    """WSI-SAM whose low branch looks at the high patch."""

    def encode(self, pairs: PairImages) -> PairEmbedding:
        (high,) = self.encoder.encode(pairs.high)
        return PairEmbedding(high, high, context_factor=1.0)


@torch.no_grad()
def without_features(decoder: HqMaskDecoder) -> None:
    """Make E + V zero, so that the vectors only meet the map that is made for the prompt."""
    for layers in (decoder.compress_vit_feat, decoder.embedding_encoder):
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)


Change = tuple[type[WsiSamSegmenter], Callable[[WsiSam], Any]]

CHANGES: dict[str, Change] = {
    "high token only": (WsiSamSegmenter, lambda model: model.low.add_nothing()),
    "low token only": (WsiSamSegmenter, lambda model: model.high.add_nothing()),
    "no fused features": (WsiSamSegmenter, lambda model: without_features(model.high)),
    "one resolution": (OneResolution, lambda model: None),
}


def ablated(settings: ModelSettings, name: str, embeddings: Path | None) -> Model:
    """The heads of a section after one of ``CHANGES``; embeddings as of ``Model``.

    Raises:
        WorkflowError, WeightsError: see ``wsi_sam_plan``.
    """
    kind, change = CHANGES[name]
    model = load_wsi_sam(wsi_sam_plan(settings))
    change(model)
    segmenter = kind(model, device=DEVICE, dtype=DTYPES[PRECISION], multimask=settings.multimask)
    return Model(segmenter, embeddings)
