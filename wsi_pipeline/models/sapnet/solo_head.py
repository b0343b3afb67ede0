"""SOLOv2's head (Wang et al. 2020): every cell of a grid says which class is there and how its mask is drawn.

Keys of the published ``mask_head``. Shapes: B patches, C classes, grids of S x S cells, kernels of E channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 5
"""Maps that the head looks at; each has twice the stride of the one before."""
MASK_LEVELS = 4
"""The finest ones, those that the mask feature is made of."""
_GROUPS = 32
_PRIOR = 0.01
"""Probability of a class before anything was learned."""


class SoloMaps(NamedTuple):
    """What the head says.

    Attributes:
        kernels: (B, E, S, S) of each level.
        categories: (B, C, S, S) logits of each level.
        feature: (B, E, h, w) at the stride of the finest level; a cell's mask logits are its kernel times it.
    """

    kernels: list[Tensor]
    categories: list[Tensor]
    feature: Tensor


class ConvNorm(nn.Module):
    """Convolution, group norm and ReLU; keys ``conv`` and ``gn``."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.gn = nn.GroupNorm(_GROUPS, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.gn(self.conv(x)).relu()


def with_places(x: Tensor) -> Tensor:
    """x (B, C, h, w) and two channels more, column and row of each cell in -1..1."""
    height, width = x.shape[-2:]
    rows = torch.linspace(-1, 1, height).to(x)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width).to(x).expand(height, width)
    return torch.cat([x, torch.stack([columns, rows]).expand(len(x), -1, -1, -1)], dim=1)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (B, C, h, w) as (B, C, *size)."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def by_cell(grids: Sequence[Tensor]) -> Tensor:
    """Grids (B, N, S, S) of all levels as (B, cells, N), level by level and row by row."""
    return torch.cat([one.flatten(2).transpose(1, 2) for one in grids], dim=1)


class MaskFeature(nn.Module):
    """The finest levels added up at the stride of the finest.

    Args:
        channels: of the levels.
        inner: channels in between.
        out: E.
    """

    def __init__(self, channels: int, inner: int, out: int) -> None:
        super().__init__()
        self.convs_all_levels = nn.ModuleList(self._level(number, channels, inner) for number in range(MASK_LEVELS))
        self.conv_pred = ConvNorm(inner, out, 1)

    @staticmethod
    def _level(number: int, channels: int, inner: int) -> nn.ModuleDict:
        first = channels + 2 if number == MASK_LEVELS - 1 else channels
        inputs = [first, *[inner] * (number - 1)]
        return nn.ModuleDict({f"conv{step}": ConvNorm(count, inner, 3) for step, count in enumerate(inputs)})

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        total = None
        for number, (convs, x) in enumerate(zip(self.convs_all_levels, levels, strict=True)):
            assert isinstance(convs, nn.ModuleDict)
            here = with_places(x) if number == MASK_LEVELS - 1 else x
            for conv in convs.values():
                here = conv(here)
                if number:
                    here = F.interpolate(here, scale_factor=2, mode="bilinear", align_corners=False)
            total = here if total is None else total + here
        return self.conv_pred(total)


class SoloHead(nn.Module):
    """The head.

    Args:
        classes: C.
        in_channels: of the five levels.
        channels: of the convolutions of both branches.
        stacked: how many of them.
        kernel: E.
        mask_channels: that the mask feature is made in.
        grids: S of each level.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 256,
        channels: int = 512,
        stacked: int = 4,
        kernel: int = 256,
        mask_channels: int = 128,
        grids: Sequence[int] = (40, 36, 24, 16, 12),
    ) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.mask_feature_head = MaskFeature(in_channels, mask_channels, kernel)
        self.cls_convs, self.kernel_convs = (
            nn.ModuleList(ConvNorm(count, channels, 3) for count in (first, *[channels] * (stacked - 1)))
            for first in (in_channels, in_channels + 2)
        )
        self.conv_cls = nn.Conv2d(channels, classes, 3, padding=1)
        self.conv_kernel = nn.Conv2d(channels, kernel, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        assert self.conv_cls.bias is not None
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, levels: Sequence[Tensor]) -> SoloMaps:
        """What is to be seen on five levels (B, in_channels, ...), the finest first, each of half the size."""
        feature = self.mask_feature_head(levels[:MASK_LEVELS])
        kernels, categories = [], []
        for level, grid in zip(_evened(levels), self.grids, strict=True):
            cells = resized(with_places(level), (grid, grid))
            kernels.append(self.conv_kernel(_through(self.kernel_convs, cells)))
            categories.append(self.conv_cls(_through(self.cls_convs, cells[:, :-2])))
        return SoloMaps(kernels, categories, feature)


def _evened(levels: Sequence[Tensor]) -> list[Tensor]:
    """The levels, the finest as large as the second and the coarsest as large as the last but one."""
    _, second, *_, last_but_one, _ = levels
    return [resized(levels[0], second.shape[-2:]), *levels[1:-1], resized(levels[-1], last_but_one.shape[-2:])]


def _through(convs: nn.ModuleList, x: Tensor) -> Tensor:
    for conv in convs:
        x = conv(x)
    return x
