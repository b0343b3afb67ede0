"""SAM's plain vision transformer with fused attention (Kirillov et al. 2023; keys of segment-anything).

Blocks, windows and parameters are those of the ``segment_anything`` package. On a GPU attention runs through the fused
kernel with the decomposed relative positions as an additive term. Heads and queries are taken some at a time, so that
the full (heads, 4096, 4096) table of a global block never exists.
"""

from __future__ import annotations

from collections.abc import Iterator
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
_LOGITS_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 28}
"""Attention logits held at once; on a CPU they should stay in the cache."""


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
        q, k, v = qkv.flatten(1, 2).unbind(0)
        along_y, along_x = self._positions(q, h, w)
        out = []
        for heads, queries in self._pieces(q):
            bias = along_y[heads, queries, :, None] + along_x[heads, queries, None, :]
            out.append(self._attend(q[heads, queries], k[heads], v[heads], bias.flatten(2)).flatten(0, 1))
        attended = torch.cat(out).view(b, self.num_heads, h * w, -1).transpose(1, 2)
        return self.proj(attended.reshape(b, h, w, -1))

    def _positions(self, q: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Terms of each query of q (n, h * w, d) for every row (n, h * w, h) and column (n, h * w, w) of keys."""
        # they use the unscaled query
        grid = q.unflatten(1, (h, w))
        along_y = torch.einsum("nhwc,hkc->nhwk", grid, get_rel_pos(h, h, self.rel_pos_h))
        along_x = torch.einsum("nhwc,wkc->nhwk", grid, get_rel_pos(w, w, self.rel_pos_w))
        return along_y.flatten(1, 2), along_x.flatten(1, 2)

    @staticmethod
    def _pieces(q: Tensor) -> Iterator[tuple[slice, slice]]:
        """Slices of the heads and queries of q (n, N, d): whole heads where the budget allows, else part of one."""
        n, tokens, _ = q.shape
        budget = _LOGITS_AT_ONCE.get(q.device.type, _LOGITS_AT_ONCE["cuda"])
        heads = max(1, budget // tokens**2)
        queries = max(1, min(tokens, budget // tokens))
        for head in range(0, n, heads):
            for query in range(0, tokens, queries):
                yield slice(head, head + heads), slice(query, query + queries)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention of queries (n, Q, d) to keys (n, N, d) with an additive term (n, Q, N)."""
        if q.device.type == "cpu":
            # measured: with an additive term the fused CPU kernel is slower than products of this size, most so in bf16
            return torch.baddbmm(bias, q, k.mT, alpha=self.scale).softmax(dim=-1) @ v
        # the kernels want four dimensions
        q, k, v, bias = (t.unsqueeze(0) for t in (q, k, v, bias))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale).squeeze(0)


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
