"""SAM's two-way transformer, for many prompts on one image embedding (keys of segment-anything).

The 4096 image tokens cost nearly everything and the prompt has few tokens, so the projections of image tokens are
moved to the prompt's side, which is exact:

* token to image: ``(q + pe) Wq . (x Wk)`` is ``((q + pe) Wq Wk') . x``, and a weighted sum of ``x Wv`` is ``Wv`` of
  the weighted sum of ``x``. The key bias adds the same to every logit of a query and leaves the softmax alone.
* image to token: likewise, and what is written back to an image token is a product of rank heads x tokens.

In the first layer the image tokens do not depend on the prompt yet; their projections are made once per image.
The steps are methods, so that a decoder can put its own between them.

Layout: B images, P prompts each, T prompt tokens, N image tokens, C = 256 channels, H heads.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from segment_anything.modeling.transformer import TwoWayTransformer as OfficialTwoWayTransformer
from torch import Tensor
from torch.nn import functional as F


class ImageSide(NamedTuple):
    """What the transformer needs of B images, computed once per image.

    Attributes:
        tokens: (B, N, C), embedding plus dense prompt embedding.
        position: (N, C), dense position code.
        key, value: (B, H, N, C'), the first layer's projections for the tokens' look at the image.
        query: (B, H, N, C'), the first layer's projection for the image's look at the tokens.
        guide: what a decoder's own steps need of the images besides; None for most.
    """

    tokens: Tensor
    position: Tensor
    key: Tensor
    value: Tensor
    query: Tensor
    guide: Any = None


class Exchange(NamedTuple):
    """Tokens and image between two steps of the transformer.

    Attributes:
        queries: (B, P, T, C), the tokens.
        codes: (B, P, T, C), their position codes: the tokens as they came in.
        image: (B, P, N, C) image tokens.
        placed: image plus position.
        position: (N, C), dense position code.
        padding: (B, P, T) bool, True for tokens that must not be seen by anything; None when there are none.
    """

    queries: Tensor
    codes: Tensor
    image: Tensor
    placed: Tensor
    position: Tensor
    padding: Tensor | None


def _heads(attention: Attention, x: Tensor) -> Tensor:
    """(..., T, C') -> (..., H, T, C'/H)."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(-2, -3)


def _scale(attention: Attention) -> float:
    return 1 / math.sqrt(attention.internal_dim // attention.num_heads)


def _per_head(attention: Attention, weight: Tensor) -> Tensor:
    """Rows of a projection (C', C) as (H, C'/H, C)."""
    return weight.unflatten(0, (attention.num_heads, -1))


def look_at_image(attention: Attention, query: Tensor, x: Tensor, x_at: Tensor) -> Tensor:
    """Tokens attend to image tokens.

    Args:
        attention: the published layer.
        query: (B, P, T, C).
        x: (B, P, N, C) image tokens, the values.
        x_at: x plus position, the keys.

    Returns:
        (B, P, T, C).
    """
    q = _heads(attention, attention.q_proj(query)) * _scale(attention)
    b, p, h, t, _ = q.shape
    folded = q @ _per_head(attention, attention.k_proj.weight)
    weights = (folded.flatten(2, 3) @ x_at.mT).softmax(dim=-1)
    seen = (weights @ x).unflatten(2, (h, t))
    v = _per_head(attention, attention.v_proj.weight)
    out = seen @ v.mT + attention.v_proj.bias.unflatten(0, (h, 1, -1))
    return attention.out_proj(out.transpose(2, 3).reshape(b, p, t, -1))


def _look_at_shared_image(attention: Attention, query: Tensor, image: ImageSide) -> Tensor:
    """The same in the first layer, where the prompts of an image share its projected tokens."""
    b, p, t, _ = query.shape
    q = _heads(attention, attention.q_proj(query)) * _scale(attention)
    q = q.transpose(1, 2).flatten(2, 3)
    seen = ((q @ image.key.mT).softmax(dim=-1) @ image.value).unflatten(2, (p, t))
    return attention.out_proj(seen.permute(0, 2, 3, 1, 4).reshape(b, p, t, -1))


def _write_back(attention: Attention, weights: Tensor, value: Tensor, x: Tensor, padding: Tensor | None) -> Tensor:
    """Add to image tokens x (B, P or 1, N, C) what they see, given logits ``weights`` (B, P, H, T, N)."""
    if padding is not None:
        weights = weights.masked_fill(padding[:, :, None, :, None], -math.inf)
    weights = weights.softmax(dim=3)
    b, p, h, _, n = weights.shape
    v = _heads(attention, attention.v_proj(value))
    out = attention.out_proj.weight.T.unflatten(0, (h, -1))
    # the weights of a head add up to 1, so every token carries its share of the output bias
    written = (v @ out + attention.out_proj.bias / h).flatten(0, 1).flatten(1, 2)
    base = x.expand(b, p, n, -1).flatten(0, 1)
    mixing = weights.flatten(0, 1).flatten(1, 2).mT
    return torch.baddbmm(base, mixing, written).unflatten(0, (b, p))


class TwoWayTransformer(OfficialTwoWayTransformer):
    """SAM's transformer with the prompts of an image in one batch."""

    def image_side(self, image: Tensor, position: Tensor) -> ImageSide:
        """Prepare images for any number of prompts.

        Args:
            image: (B, C, h, w), embedding plus dense prompt embedding.
            position: (C, h, w), dense position code.
        """
        tokens = image.flatten(2).mT.contiguous()
        at = position.flatten(1).mT.contiguous()
        first = self._layer(0)
        look, write = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        placed = tokens + at
        return ImageSide(
            tokens=tokens,
            position=at,
            key=_heads(look, look.k_proj(placed)).contiguous(),
            value=_heads(look, look.v_proj(tokens)).contiguous(),
            query=_heads(write, write.q_proj(placed)).contiguous(),
        )

    def forward(self, image: ImageSide, tokens: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the transformer.

        Args:
            image: B images from ``image_side``.
            tokens: (B, P, T, C) output and prompt tokens.
            padding: (B, P, T) bool, True for tokens that must not be seen by anything; None when there are none.

        Returns:
            (B, P, T, C) tokens and (B, P, N, C) image tokens.
        """
        state = self.start(image, tokens, padding)
        for number in range(1, self.depth):
            state = self.converse(number, state)
            state = state._replace(queries=state.queries + self.look(number, state))
            state = self.settle(number, state)
        return self.finish(state), state.image

    def start(self, image: ImageSide, tokens: Tensor, padding: Tensor | None = None) -> Exchange:
        """The first layer, for the arguments of ``forward``."""
        queries = self._first_layer_tokens(image, tokens, padding)
        x = self._first_layer_image(image, queries, tokens, padding)
        return Exchange(queries, tokens, x, x + image.position, image.position, padding)

    def converse(self, number: int, state: Exchange) -> Exchange:
        """A later layer's first step: the tokens attend to each other."""
        layer = self._layer(number)
        placed = state.queries + state.codes
        heard = _attend_among(layer.self_attn, placed, state.queries, state.padding)
        return state._replace(queries=layer.norm1(state.queries + heard))

    def look(self, number: int, state: Exchange) -> Tensor:
        """A later layer's second step: what the tokens see of the image, (B, P, T, C), to be added to them."""
        attention = self._layer(number).cross_attn_token_to_image
        return look_at_image(attention, state.queries + state.codes, state.image, state.placed)

    def settle(self, number: int, state: Exchange) -> Exchange:
        """A later layer's rest: the tokens think about what they saw, and the image attends to them."""
        layer = self._layer(number)
        queries = self._think(layer, state.queries)
        x = self._write_back(layer, queries, state.codes, state.image, state.placed, state.padding)
        return state._replace(queries=queries, image=x, placed=x + state.position)

    def finish(self, state: Exchange) -> Tensor:
        """After all layers the tokens (B, P, T, C) look at the image once more."""
        final = self.final_attn_token_to_image
        seen = look_at_image(final, state.queries + state.codes, state.image, state.placed)
        return self.norm_final_attn(state.queries + seen)

    def _layer(self, number: int) -> TwoWayAttentionBlock:
        layer = self.layers[number]
        assert isinstance(layer, TwoWayAttentionBlock)
        return layer

    def _first_layer_tokens(self, image: ImageSide, tokens: Tensor, padding: Tensor | None) -> Tensor:
        layer = self._layer(0)
        # the first layer has neither position code nor residual here
        queries = layer.norm1(_attend_among(layer.self_attn, tokens, tokens, padding))
        seen = _look_at_shared_image(layer.cross_attn_token_to_image, queries + tokens, image)
        return self._think(layer, queries + seen)

    def _first_layer_image(self, image: ImageSide, queries: Tensor, tokens: Tensor, padding: Tensor | None) -> Tensor:
        layer = self._layer(0)
        attention = layer.cross_attn_image_to_token
        p, t = tokens.shape[1:3]
        k = _heads(attention, attention.k_proj(queries + tokens)) * _scale(attention)
        logits = k.transpose(1, 2).flatten(2, 3) @ image.query.mT
        logits = logits.unflatten(2, (p, t)).transpose(1, 2)
        written = _write_back(attention, logits, queries, image.tokens.unsqueeze(1), padding)
        return layer.norm4(written)

    @staticmethod
    def _think(layer: TwoWayAttentionBlock, queries: Tensor) -> Tensor:
        queries = layer.norm2(queries)
        return layer.norm3(queries + layer.mlp(queries))

    @staticmethod
    def _write_back(
        layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor, x: Tensor, x_at: Tensor, padding: Tensor | None
    ) -> Tensor:
        attention = layer.cross_attn_image_to_token
        k = _heads(attention, attention.k_proj(queries + tokens)) * _scale(attention)
        folded = k @ _per_head(attention, attention.q_proj.weight)
        constant = k @ attention.q_proj.bias.unflatten(0, (attention.num_heads, -1, 1))
        logits = (folded.flatten(2, 3) @ x_at.mT).unflatten(2, k.shape[2:4]) + constant
        return layer.norm4(_write_back(attention, logits, queries, x, padding))


def _attend_among(attention: Attention, placed: Tensor, values: Tensor, padding: Tensor | None) -> Tensor:
    """Self-attention of the tokens (B, P, T, C) of each prompt."""
    q, k = (_heads(attention, project(placed)) for project in (attention.q_proj, attention.k_proj))
    v = _heads(attention, attention.v_proj(values))
    seen = None if padding is None else ~padding[:, :, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return attention.out_proj(out.transpose(2, 3).flatten(3))
