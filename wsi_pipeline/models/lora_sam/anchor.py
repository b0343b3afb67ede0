"""The anchor prompter: finds boxes and makes up SAM's prompts for them (RSPrompter's ``RSPrompterAnchor``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.lora_sam.box_heads import BoxHeads
from wsi_pipeline.models.lora_sam.tokens import RegionTokens

_TEMPERATURE = 10_000.0


def sine_code(cells: int, channels: int) -> Tensor:
    """(channels, cells) float32 code of places along an axis, the last one at 2 pi (Carion et al. 2020, "DETR").

    Sine and cosine take turns, in pairs of falling frequency.
    """
    place = torch.arange(1, cells + 1, dtype=torch.float32) / (cells + 1e-6) * (2 * math.pi)
    frequency = _TEMPERATURE ** (-2 * (torch.arange(channels) // 2) / channels)
    angle = frequency[:, None] * place
    return torch.where((torch.arange(channels) % 2 == 0)[:, None], angle.sin(), angle.cos())


def with_position(levels: Sequence[Tensor]) -> list[Tensor]:
    """Levels (B, width, n, n) with codes of row and column added, each to half of the channels.

    The codes are those of the finest level, interpolated for the others.
    """
    channels, finest = levels[0].shape[1] // 2, levels[0].shape[-1]
    code = sine_code(finest, channels).to(levels[0])[None]
    placed = []
    for level in levels:
        side = level.shape[-1]
        here = F.interpolate(code, side, mode="linear", align_corners=False)
        rows, columns = here[..., None].expand(-1, -1, -1, side), here[..., None, :].expand(-1, -1, side, -1)
        placed.append(level + torch.cat([rows, columns], dim=1))
    return placed


class AnchorPrompter(BoxHeads):
    """Boxes, classes and scores, and K prompt tokens for each box.

    Args:
        width, n_classes, strides, box_width: as of ``BoxHeads``.
        points: K.
    """

    def __init__(self, width: int, n_classes: int, strides: Sequence[float], box_width: int, points: int) -> None:
        super().__init__(width, n_classes, strides, box_width, RegionTokens(width, points))

    def placed(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return with_position(levels)
