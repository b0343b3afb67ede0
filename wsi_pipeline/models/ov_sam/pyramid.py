"""The pyramid of maps that regions are pooled from, each from the level that fits its size."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from wsi_pipeline.models.regions import pool_boxes

STRIDES = (4, 8, 16, 32)
_FINEST_PX = 56
"""Side of the boxes that the finest level is for; the next level is for twice this side."""
_PUBLISHED = {"inner_blocks": "lateral_convs", "layer_blocks": "fpn_convs"}
_TORCHVISION = {published: own for own, published in _PUBLISHED.items()}


class FeaturePyramid(FeaturePyramidNetwork):
    """torchvision's network, whose state dict has the published names.

    Args:
        in_channels: of the maps, fine to coarse.
        out_channels: of the levels.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256) -> None:
        super().__init__(list(in_channels), out_channels)
        self.register_state_dict_post_hook(_publish)
        self.register_load_state_dict_pre_hook(_take_published)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, h_i, w_i), fine to coarse, to levels (B, out_channels, h_i, w_i)."""
        return list(super().forward(OrderedDict((str(n), level) for n, level in enumerate(levels))).values())


def _publish(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        part, number, rest = _split(key, prefix)
        state[f"{prefix}{_PUBLISHED[part]}.{number}.conv.{rest}"] = state.pop(key)


def _take_published(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        part, number, rest = _split(key, prefix)
        if part in _TORCHVISION:
            state[f"{prefix}{_TORCHVISION[part]}.{number}.0.{rest}"] = state.pop(key)


def _split(key: str, prefix: str) -> tuple[str, str, str]:
    """Part, number of the level and parameter of a key of either naming."""
    found = re.match(r"(\w+)\.(\d+)\.\w+\.(\w+)$", key.removeprefix(prefix))
    return (found[1], found[2], found[3]) if found else ("", "", "")


def level_of_box(boxes: Tensor, levels: int = len(STRIDES)) -> Tensor:
    """(N,) int64, the level that boxes (N, 4) in px of the padded image are pooled from."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return torch.log2(area.sqrt() / _FINEST_PX + 1e-6).floor().clamp(0, levels - 1).long()


def pool_from_pyramid(levels: Sequence[Tensor], rows: Tensor, *, size: int, grid: int) -> Tensor:
    """Boxes (N, 5), see ``regions.box_rows``, each from its level: (N, C, grid, grid) float32.

    Args:
        levels: (B, C, h_i, w_i), fine to coarse.
        rows: in px of the padded image, whose side is ``size``.
        size: px.
        grid: side of what a box is pooled to.
    """
    numbers = level_of_box(rows[:, 1:], len(levels))
    pooled = rows.new_zeros(len(rows), levels[0].shape[1], grid, grid)
    for number, level in enumerate(levels):
        here = numbers == number
        pooled[here] = pool_boxes(level, rows[here], size=size, grid=grid)
    return pooled
