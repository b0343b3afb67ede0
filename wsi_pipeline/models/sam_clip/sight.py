"""What the head reads of an image encoder.

Of a plain vision transformer, the output of its last block, before the neck: one token for each 16 px. It takes images
of any multiple of that, as the head is trained on small ones. Of TinyViT, the embedding and the early map that all
models on it share, averaged to 16 x 16 tokens; its windows know patches of one size only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.backbones.tiny_vit import TinyViT
from wsi_pipeline.models.backbones.vit import ViTEncoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CHANNELS

GRID = 16
"""Tokens along the side of a patch of TinyViT."""


class LastBlock(nn.Module):
    """A vision transformer whose early map is the output of its last block, for images of any multiple of 16 px.

    Args:
        encoder: SAM's; its parameters are used as they are.
    """

    def __init__(self, encoder: ViTEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.early_channels = encoder.early_channels

    def forward(self, x: Tensor) -> EncoderOutput:
        """Encode preprocessed images (B, 3, H, W): (B, 256, H / 16, W / 16) after the neck, and the tokens before."""
        tokens = self.encoder.patch_embed(x)
        tokens = tokens + resized_positions(self.encoder.pos_embed, (tokens.shape[1], tokens.shape[2]))
        # the blocks resize their tables of relative positions by themselves
        for block in self.encoder.blocks:
            tokens = block(tokens)
        return EncoderOutput(self.encoder.neck(tokens), tokens)


def resized_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map of absolute positions (1, H, W, C) for a grid of other height and width."""
    if positions.shape[1:3] == torch.Size(grid):
        return positions
    resized = F.interpolate(positions.permute(0, 3, 1, 2), grid, mode="bicubic", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1)


def seeing(encoder: nn.Module) -> nn.Module:
    """An encoder that gives what the head reads, sharing its parameters with the given one."""
    return LastBlock(encoder) if isinstance(encoder, ViTEncoder) else encoder


def width_of(encoder: TinyViT | ViTEncoder) -> int:
    """C, channels of the tokens that the head reads."""
    return encoder.early_channels if isinstance(encoder, ViTEncoder) else CHANNELS + encoder.early_channels


def tokens_of(seen: EncoderOutput, channels: int) -> Tensor:
    """(B, h, w, C) float32 tokens of C ``channels`` that the head reads of what ``seeing(encoder)`` gave."""
    if seen.early.shape[-1] == channels:
        return seen.early.float()
    maps = (seen.embedding, seen.early.permute(0, 3, 1, 2))
    return torch.cat([F.adaptive_avg_pool2d(part.float(), GRID) for part in maps], dim=1).permute(0, 2, 3, 1)
