"""Attention to a few places of several feature maps, which each query picks itself (Zhu et al. 2021).

Layout: N samples, q queries, L levels with S cells in all, M heads, P places of each head on each level, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.semantic_sam.answers import Shapes


class MultiScaleDeformableAttention(nn.Module):
    """Bilinear samples around a query's reference, weighted, in plain PyTorch; float32 whatever autocast says.

    Args:
        width: C.
        levels, heads, points: L, M and P.
    """

    def __init__(self, width: int, *, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._start()

    def _start(self) -> None:
        """Heads look in directions of their own, farther with each point, at all places alike."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(-1, 1)
        offsets = (directions[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())

    def values(self, source: Tensor) -> Tensor:
        """(N, S, M, C / M) of what is looked at: (N, S, C) cells of all levels, line by line."""
        with torch.autocast(source.device.type, enabled=False):
            return self.value_proj(source.float()).unflatten(-1, (self.heads, -1))

    def forward(self, query: Tensor, references: Tensor, values: Tensor, shapes: Shapes) -> Tensor:
        """Attend.

        Args:
            query: (N, q, C).
            references: (N, q, L, 2) x, y, or (N, q, L, 4) cx, cy, w, h, shares of the image; L may be 1 for all levels.
            values: from ``values``.
            shapes: (height, width) of the levels.

        Returns:
            (N, q, C).
        """
        with torch.autocast(query.device.type, enabled=False):
            query = query.float()
            offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))
            weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(dim=-1)
            weights = weights.unflatten(-1, (self.levels, self.points))
            return self.output_proj(sample(values, shapes, self._places(references.float(), offsets, shapes), weights))

    def _places(self, references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
        """(N, q, M, L, P, 2) x, y of the places, shares of the image."""
        references = references[:, :, None, :, None]
        if references.shape[-1] == 2:
            size = torch.tensor(shapes, dtype=offsets.dtype, device=offsets.device).flip(-1)
            return references + offsets / size[:, None]
        return references[..., :2] + offsets / self.points * references[..., 2:] * 0.5


def sample(values: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of values at places.

    Args:
        values: (N, S, M, D).
        shapes: (height, width) of the levels.
        places: (N, q, M, L, P, 2) x, y as shares of the image; beyond it all values are 0.
        weights: (N, q, M, L, P).

    Returns:
        (N, q, M * D).
    """
    n, _, heads, _ = values.shape
    grids = (2 * places - 1).transpose(1, 2).flatten(0, 1)
    seen = []
    for level, (cells, (height, width)) in enumerate(
        zip(values.split([height * width for height, width in shapes], dim=1), shapes, strict=True)
    ):
        image = cells.permute(0, 2, 3, 1).reshape(n * heads, -1, height, width)
        seen.append(F.grid_sample(image, grids[:, :, level], align_corners=False))
    weights = weights.transpose(1, 2).flatten(0, 1).flatten(-2).unsqueeze(1)
    total = (torch.cat(seen, dim=-1) * weights).sum(dim=-1)
    return total.unflatten(0, (n, heads)).flatten(1, 2).transpose(1, 2)
