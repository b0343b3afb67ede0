"""SAM2CLIP: from an image-text encoder's four maps to an image embedding that SAM's decoder understands."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsi_pipeline.models.backbones.vit import PATCH, WINDOW, Block, ViTSize
from wsi_pipeline.models.layers import Neck


class PatchEmbedding(nn.Module):
    """A map brought to stride 16 and a common width.

    Args:
        channels: of the map.
        stride: image px per px of the map; 32 is the one beyond 16.
        width: channels afterwards.
    """

    def __init__(self, channels: int, stride: int, width: int) -> None:
        super().__init__()
        shrinking, side = stride <= PATCH, max(PATCH // stride, stride // PATCH)
        layer = nn.Conv2d if shrinking else nn.ConvTranspose2d
        self.projection: nn.Module = layer(channels, width, kernel_size=side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H/s, W/s) to (B, H/16, W/16, width)."""
        return self.projection(x).permute(0, 2, 3, 1)


class Sam2ClipAdapter(nn.Module):
    """The adapter under its published names (Yuan et al. 2024, §3.2).

    Args:
        in_channels: of the maps, fine to coarse.
        strides: image px per px of each map.
        grid: G, side of the embedding; image px / 16.
        width: of the tokens.
        depth: transformer blocks; the last one looks at all tokens, the others at windows.
        heads: of attention.
        window: side of the windows, tokens.
        out_channels: of the embedding.
    """

    pos_embed: Tensor

    def __init__(
        self,
        in_channels: Sequence[int] = (384, 768, 1536, 3072),
        strides: Sequence[int] = (4, 8, 16, 32),
        grid: int = 64,
        width: int = 1280,
        depth: int = 5,
        heads: int = 16,
        window: int = WINDOW,
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        # SAM ViT-H's in the published files, and never trained
        self.register_buffer("pos_embed", torch.zeros(1, grid, grid, width))
        self.patch_embeds = nn.ModuleList(
            PatchEmbedding(channels, stride, width) for channels, stride in zip(in_channels, strides, strict=True)
        )
        self.level_encoding = nn.Embedding(len(in_channels), width)
        size = ViTSize(width, depth, heads, (depth - 1,))
        windows = [0 if number in size.global_blocks else window for number in range(depth)]
        self.blocks = nn.ModuleList(Block(size, grid, side) for side in windows)
        self.neck = Neck(width, out_channels)

    def tokens(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, G, G, width) the maps' sum, with what tells the levels and the places."""
        embedded = [
            embed(level) + code
            for embed, level, code in zip(self.patch_embeds, levels, self.level_encoding.weight, strict=True)
        ]
        return torch.stack(embedded).sum(dim=0) + self.pos_embed

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H/s_i, W/s_i) to (B, out_channels, G, G)."""
        x = self.tokens(levels)
        for block in self.blocks:
            x = block(x)
        return self.neck(x)
