"""From a backbone's maps to what masks are drawn with and what queries look at (keys of Mask DINO's pixel decoder).

Layout: B images, four maps from fine to coarse, each of half the side of the one before, features of C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.semantic_sam.answers import Shapes
from wsi_pipeline.models.semantic_sam.deformable import MultiScaleDeformableAttention
from wsi_pipeline.models.semantic_sam.positions import cell_centres, cell_sine

LEVELS = 4
"""Levels of the memory: the maps but the finest, and one more that is coarser."""
_GROUPS = 32


class NormedConv(nn.Conv2d):
    """A convolution without a bias, normalised in groups."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class EncoderLayer(nn.Module):
    """Every cell looks around it on all levels.

    Args:
        width: C.
        heads, points: of the attention.
        ffn: width of the hidden layer.
    """

    def __init__(self, width: int, *, heads: int, points: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(width, levels=LEVELS, heads=heads, points=points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, cells: Tensor, position: Tensor, centres: Tensor, shapes: Shapes) -> Tensor:
        """Cells (B, S, C) with their position (S, C) and centres (B, S, 1, 2)."""
        cells = self.norm1(cells + self.self_attn(cells + position, centres, self.self_attn.values(cells), shapes))
        return self.norm2(cells + self.linear2(F.relu(self.linear1(cells))))


class _Encoder(nn.Module):
    """The published nesting of keys."""

    def __init__(self, width: int, layers: int, **layer: int) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(EncoderLayer(width, **layer) for _ in range(layers))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        shapes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        cells = torch.cat([level.flatten(2).mT for level in levels], dim=1)
        position = torch.cat(
            [
                cell_sine(*shape, cells.shape[-1], cells.device) + embedding
                for shape, embedding in zip(shapes, self.level_embed, strict=True)
            ]
        )
        centres = cell_centres(shapes, cells.device).expand(len(cells), -1, -1).unsqueeze(2)
        for layer in self.encoder.get_submodule("layers").children():
            cells = layer(cells, position, centres, shapes)
        parts = cells.split([height * width for height, width in shapes], dim=1)
        return [part.mT.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]


class PixelDecoder(nn.Module):
    """Mixes four maps.

    Args:
        channels: of the maps, the finest first.
        width: C.
        layers: that mix the levels.
        heads, points, ffn: of each.
    """

    def __init__(self, channels: Sequence[int], width: int, *, layers: int, heads: int, points: int, ffn: int) -> None:
        super().__init__()
        finest, *others = channels
        projections = [nn.Conv2d(count, width, 1) for count in others]
        projections.append(nn.Conv2d(others[-1], width, 3, stride=2, padding=1))
        self.input_proj = nn.ModuleList(nn.Sequential(layer, nn.GroupNorm(_GROUPS, width)) for layer in projections)
        self.transformer = _Encoder(width, layers, heads=heads, points=points, ffn=ffn)
        self.adapter_1 = NormedConv(finest, width, 1)
        self.layer_1 = NormedConv(width, width, 3)
        self.mask_features = nn.Conv2d(width, width, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What masks are drawn with, (B, C, h, w) as the finest map, and the levels (B, C, ...) from fine to coarse."""
        finest, *others = maps
        seen = [*others, others[-1]]
        levels = self.transformer([project(one) for project, one in zip(self.input_proj, seen, strict=True)])
        fine = F.interpolate(levels[0], finest.shape[-2:], mode="bilinear", align_corners=False)
        drawn = F.relu(self.layer_1(self.adapter_1(finest) + fine))
        return self.mask_features(drawn), levels
