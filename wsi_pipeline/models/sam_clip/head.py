"""What turns a map of image tokens into the terms of a text encoder: for the patch as a whole, and for each token."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

Pool = Literal["max", "mean"]
Places = Literal["both", "alone", "together"]


class Meaning(NamedTuple):
    """What B patches mean.

    Attributes:
        tokens: (B, T, D) or (B, h, w, D) float32 of each token, of unit length or the mean of two that are.
        pooled: (B, D) float32 of the whole, of unit length.
    """

    tokens: Tensor
    pooled: Tensor


class ClipHead(nn.Module):
    """Transformer layers, a pool over the tokens, and a projection. Keys ``layers.0`` …, ``norm``, ``proj.weight``.

    Args:
        in_dim: C, channels of the tokens; where they are not ``width``, a layer ``entry`` makes them so.
        width, depth, heads: of the transformer.
        out_dim: D, of the text encoder.
        pool: over the tokens; with ``max`` each channel is what the token knows that is surest of it.
        places: whether the tokens of a map are each read alone, or together, as published, or both, which is the mean.
            Where all attend to each other every token of a patch says what the whole patch shows; what is read alone
            knows nothing of its surroundings.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        width: int = 768,
        depth: int = 3,
        heads: int = 12,
        out_dim: int,
        pool: Pool = "max",
        places: Places = "both",
    ) -> None:
        super().__init__()
        self.in_dim, self.pool, self.places = in_dim, pool, places
        same = in_dim == width
        self.entry = nn.Identity() if same else nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, out_dim, bias=False)

    def on_map(self, tokens: Tensor) -> Meaning:
        """Read (B, h, w, C) tokens; those of the result have the same places."""
        meaning: Meaning = self(tokens.flatten(1, 2))
        said = meaning.tokens.reshape(*tokens.shape[:3], -1)
        if self.places == "together":
            return meaning._replace(tokens=said)
        alone = self(tokens.reshape(-1, 1, tokens.shape[-1])).pooled.reshape(said.shape)
        # the mean of two vectors has the mean of their cosines as long as it keeps its length
        return meaning._replace(tokens=alone if self.places == "alone" else (said + alone) / 2)

    def forward(self, tokens: Tensor) -> Meaning:
        """Read (B, T, C) tokens; T may be any number."""
        x = self.entry(tokens)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        pooled = x.amax(dim=1) if self.pool == "max" else x.mean(dim=1)
        # of unit length after the projection, not before: the dot products with texts are cosines then
        return Meaning(*(F.normalize(self.proj(part).float(), dim=-1) for part in (x, pooled)))
