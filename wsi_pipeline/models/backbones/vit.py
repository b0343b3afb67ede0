"""SAM's plain vision transformer with fused attention (Kirillov et al. 2023; keys of segment-anything).

Blocks, windows and parameters are those of the ``segment_anything`` package. Attention runs through the fused kernel
with the decomposed relative positions as an additive term, a few rows of queries at a time, so that the full
(heads, 4096, 4096) table of a global block never exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import Attention as DecomposedAttention
from segment_anything.modeling.image_encoder import PatchEmbed, get_rel_pos, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import EncoderOutput, Neck

PATCH = 16
"""Side of an image token in px."""
WINDOW = 14
"""Side of an attention window in tokens."""
_BIAS_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 28}
# on a CPU the position term of a chunk of queries should stay in the cache


@dataclass(frozen=True, slots=True)
class ViTSize:
    """Hyper-parameters of one of SAM's three encoders; attention is global in ``global_blocks``."""

    dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


VIT_SIZES = {
    "vit_b": ViTSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": ViTSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": ViTSize(1280, 32, 16, (7, 15, 23, 31)),
}


class Attention(DecomposedAttention):
    """Self-attention with decomposed relative positions; equals the package's module up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        b, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(b, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        rows = self._rows_at_once(x.device.type, b * w * h * w)
        chunks = [self._attend(q[:, :, y * w : (y + rows) * w], k, v, y, (h, w)) for y in range(0, h, rows)]
        out = torch.cat(chunks, dim=2)
        return self.proj(out.transpose(1, 2).reshape(b, h, w, -1))

    def _rows_at_once(self, device: str, bias_per_row: int) -> int:
        budget = _BIAS_ELEMENTS.get(device, _BIAS_ELEMENTS["cuda"])
        return max(1, budget // (bias_per_row * self.num_heads))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, first_row: int, size: tuple[int, int]) -> Tensor:
        """Attention of some rows of queries q (B, heads, rows * W, d) to all keys."""
        h, w = size
        rows = q.shape[2] // w
        grid = q.unflatten(2, (rows, w))
        # the position terms use the unscaled query
        to_rows = get_rel_pos(h, h, self.rel_pos_h)[first_row : first_row + rows]
        to_columns = get_rel_pos(w, w, self.rel_pos_w)
        along_y = torch.einsum("bnhwc,hkc->bnhwk", grid, to_rows)
        along_x = torch.einsum("bnhwc,wkc->bnhwk", grid, to_columns)
        bias = (along_y.unsqueeze(-1) + along_x.unsqueeze(-2)).flatten(4).flatten(2, 3)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)


class Block(nn.Module):
    """Transformer block on (B, H, W, C) tokens; ``window`` 0 means global attention."""

    def __init__(self, size: ViTSize, tokens: int, window: int) -> None:
        super().__init__()
        side = window or tokens
        self.norm1 = nn.LayerNorm(size.dim, eps=1e-6)
        self.attn = Attention(size.dim, size.heads, use_rel_pos=True, input_size=(side, side))
        self.norm2 = nn.LayerNorm(size.dim, eps=1e-6)
        self.mlp = MLPBlock(size.dim, 4 * size.dim)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        attended = self.norm1(x)
        if self.window:
            # padded after the norm and not masked: the published weights expect it
            windows, padded = window_partition(attended, self.window)
            attended = window_unpartition(self.attn(windows), self.window, padded, (x.shape[1], x.shape[2]))
        else:
            attended = self.attn(attended)
        x = x + attended
        return x + self.mlp(self.norm2(x))


class ViTEncoder(nn.Module):
    """SAM's image encoder.

    Args:
        size: one of ``VIT_SIZES``.
        image_size: side of the input in px.

    Attributes:
        early_channels: channels of the early feature (HQ-SAM's ``interm_embeddings[0]``).
    """

    def __init__(self, size: ViTSize, image_size: int = 1024) -> None:
        super().__init__()
        tokens = image_size // PATCH
        self.image_size = image_size
        self.early_channels = size.dim
        self.early_block = size.global_blocks[0]
        self.patch_embed = PatchEmbed((PATCH, PATCH), (PATCH, PATCH), embed_dim=size.dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, tokens, size.dim))
        windows = [0 if i in size.global_blocks else WINDOW for i in range(size.depth)]
        self.blocks = nn.ModuleList(Block(size, tokens, window) for window in windows)
        self.neck = Neck(size.dim)

    def forward(self, x: Tensor) -> EncoderOutput:
        """Encode preprocessed images (B, 3, S, S); the early feature is the output of the first global block."""
        x = self.patch_embed(x) + self.pos_embed
        early = x
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == self.early_block:
                early = x
        return EncoderOutput(self.neck(x), early)
