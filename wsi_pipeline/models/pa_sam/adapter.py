"""PA-SAM's prompt adapter (Xie et al. 2024; keys ``prompt_adapter.*``).

In the transformer's last layer the tokens also look at the guided image G = guiding embedding * image tokens. Three
vectors are made of what the first mask token saw (m): m itself, u and r. Multiplied with G they give 64 x 64 maps: a
coarse mask, where it is uncertain, and a refined mask. Where both masks differ most, cells become further point
prompts, and r takes the place of what the mask token saw.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from wsi_pipeline.models.mask_decoder import CHANNELS
from wsi_pipeline.models.pa_sam.guide import Guide
from wsi_pipeline.models.pa_sam.mining import POINTS, MinedCells, drawn, highest
from wsi_pipeline.models.two_way import Exchange, look_at_image

_MASK_TOKEN = 1
"""Number of the token for one unambiguous mask."""


class PaMaps(NamedTuple):
    """The adapter's maps for B x P prompts, (B, P, h, w) float32.

    Attributes:
        uncertainty: 0..1.
        coarse, refined: logits.
    """

    uncertainty: Tensor
    coarse: Tensor
    refined: Tensor

    def final(self) -> Tensor:
        """(B, P, h, w) logits: refined where uncertain, else coarse."""
        return torch.where(self.uncertainty >= 0.5, self.refined, self.coarse)

    def scores(self) -> Tensor:
        """(B, P, h * w): how far an uncertain cell was missed, above 0, or wrongly taken, below 0."""
        return (self.uncertainty * (self.refined.sigmoid() - self.coarse.sigmoid())).flatten(2)


class Adapted(NamedTuple):
    """What the adapter makes of an exchange.

    Attributes:
        exchange: with what the tokens saw added to them, the mined points behind them, and G added to the image.
        maps: where the mask is uncertain, and how it is refined.
        cells: what was mined; None where nothing was.
    """

    exchange: Exchange
    maps: PaMaps
    cells: MinedCells | None


class PromptAdapter(nn.Module):
    """The prompt adapter.

    Attributes:
        mining: whether points are mined in training; the published training starts at the sixth of 21 epochs. In
            evaluation they always are.
    """

    mining = True

    def __init__(self) -> None:
        super().__init__()
        self.static_uncertain_token = nn.Embedding(1, CHANNELS)
        self.static_refined_token = nn.Embedding(1, CHANNELS)
        self.uncertain_mlp = MLP(2 * CHANNELS, CHANNELS // 4, CHANNELS, 3)
        self.refined_mlp = MLP(2 * CHANNELS, CHANNELS // 4, CHANNELS, 3)
        self.cross_attn_token_to_image = Attention(CHANNELS, num_heads=8, downsample_rate=2)

    def forward(
        self,
        exchange: Exchange,
        looked: Tensor,
        guide: Guide,
        *,
        keep_ties: bool = False,
        generator: torch.Generator | None = None,
    ) -> Adapted:
        """Adapt the last layer.

        Args:
            exchange: after the tokens attended to each other.
            looked: (B, P, T, 256), what SAM's own attention saw of the image.
            guide: of the B images.
            keep_ties: make points also of cells in which both masks agree exactly, as published. There is nothing to
                point at in them, and which of many was chosen says nothing.
            generator: of the noise in training.
        """
        guided = guide.tokens.unsqueeze(1) * exchange.image
        seen, maps = self._look(exchange, guided)
        exchange = exchange._replace(
            queries=exchange.queries + looked + seen,
            image=exchange.image + guided,
            placed=exchange.placed + guided,
        )
        if self.training and not self.mining:
            return Adapted(exchange, maps, None)
        cells = drawn(maps.scores(), generator) if self.training else highest(maps.scores())
        hidden = torch.zeros_like(cells.tied) if keep_ties else cells.tied
        return Adapted(_with_points(exchange, cells, guide.marks, hidden), maps, cells)

    def _look(self, exchange: Exchange, guided: Tensor) -> tuple[Tensor, PaMaps]:
        """What the tokens see of G (B, P, N, 256), r in the mask token's place, as (B, P, T, 256); and the maps."""
        query = exchange.queries + exchange.codes
        seen = look_at_image(self.cross_attn_token_to_image, query, guided, guided + exchange.position)
        before, mask_token, after = seen.tensor_split([_MASK_TOKEN, _MASK_TOKEN + 1], dim=2)
        refined = self._refine(self.refined_mlp, self.static_refined_token, mask_token)
        uncertain = self._refine(self.uncertain_mlp, self.static_uncertain_token, mask_token)
        maps = _maps(torch.cat([uncertain, mask_token, refined], dim=2), guided)
        return torch.cat([before, refined, after], dim=2), maps

    @staticmethod
    def _refine(mlp: MLP, static: nn.Embedding, mask_token: Tensor) -> Tensor:
        """(B, P, 1, 256) vectors of the mask token's (B, P, 1, 256) and a learned one."""
        return mlp(torch.cat([static.weight.expand_as(mask_token), mask_token], dim=-1))


def _maps(vectors: Tensor, guided: Tensor) -> PaMaps:
    """Maps of vectors (B, P, 3, 256) u, m and r on the guided image (B, P, N, 256)."""
    maps = (vectors @ guided.mT).float()
    side = int(maps.shape[-1] ** 0.5)
    uncertainty, coarse, refined = maps.unflatten(-1, (side, side)).unbind(dim=2)
    return PaMaps(uncertainty.sigmoid(), coarse, refined)


def _with_points(exchange: Exchange, cells: MinedCells, marks: Tensor, hidden: Tensor) -> Exchange:
    """The exchange with eight more tokens, some of them hidden: the guided image in the cells, and where they are."""
    contents = exchange.image.take_along_dim(cells.numbers.unsqueeze(-1), dim=2)
    codes = exchange.position[cells.numbers]
    if cells.weights is not None:
        weights = cells.weights.unsqueeze(-1).to(contents.dtype)
        contents, codes = contents * weights, codes * weights
    outside, inside = marks
    codes = codes + torch.stack([inside, outside]).repeat_interleave(POINTS, dim=0)
    padding = exchange.padding
    if padding is None:
        padding = torch.zeros_like(exchange.queries[..., 0], dtype=torch.bool)
    return exchange._replace(
        queries=torch.cat([exchange.queries, contents], dim=2),
        codes=torch.cat([exchange.codes, codes], dim=2),
        padding=torch.cat([padding, hidden], dim=2),
    )
