"""A ViT that also gives its hidden states, put together by an aggregator."""

from __future__ import annotations

from contextlib import ExitStack

from torch import Tensor, nn

from wsi_pipeline.models.backbones.vit import ViTEncoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.pyramid import FeatureAggregator


class AggregatingEncoder(nn.Module):
    """Gives the embedding, and as ``early`` (B, h, w, 256) the aggregated hidden states.

    Args:
        encoder: plain ViT.
        aggregator: made for its width and depth.
    """

    def __init__(self, encoder: ViTEncoder, aggregator: FeatureAggregator) -> None:
        super().__init__()
        self.encoder, self.aggregator = encoder, aggregator

    def forward(self, x: Tensor) -> EncoderOutput:
        """Encode preprocessed images (B, 3, S, S)."""
        hidden: list[Tensor] = []
        with ExitStack() as hooks:
            first, *_ = blocks = list(self.encoder.blocks)
            hooks.enter_context(first.register_forward_pre_hook(lambda block, given: hidden.append(given[0])))
            for block in blocks:
                hooks.enter_context(block.register_forward_hook(lambda block, given, out: hidden.append(out)))
            embedding = self.encoder(x).embedding
        return EncoderOutput(embedding, self.aggregator(hidden).permute(0, 2, 3, 1))
