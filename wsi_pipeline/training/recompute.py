"""Encoders whose blocks are computed again for the gradient instead of being kept (Chen et al. 2016)."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from wsi_pipeline.models.backbones.tiny_vit import TinyViTBlock
from wsi_pipeline.models.backbones.vit import Block


def recompute_blocks(encoder: nn.Module) -> None:
    """Make every transformer block of an encoder keep its input only; results stay the same to the last bit."""
    for block in encoder.modules():
        if isinstance(block, Block | TinyViTBlock):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
