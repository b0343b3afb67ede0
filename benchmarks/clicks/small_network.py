"""A network small enough to be trained on drawn cells in seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.settings import SapNetSettings, SelectorSettings, SoloSettings
from wsi_pipeline.training.draws import seeded

WIDTH, STRIDE = 32, 4
LEVELS = 3
"""Maps that boxes are looked at on; only random ones are large enough for the coarser two."""
_GROUPS = 8


class SmallBackbone(nn.Module):
    """Three convolutions, and as many more as there are coarser maps.

    Args:
        levels: maps wanted, each of twice the stride of the one before.
    """

    width = WIDTH

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.strides = tuple(float(STRIDE * 2**level) for level in range(levels))
        self.first = nn.Sequential(_layer(3, 2), _layer(WIDTH, 2), _layer(WIDTH, 1))
        self.further = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), nn.ReLU()) for _ in self.strides[1:]
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps of (B, 3, H, W) pixels 0..255."""
        maps = [self.first(pixels / 127.5 - 1)]
        for layer in self.further:
            maps.append(layer(maps[-1]))
        return maps


def _layer(channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3, stride, 1), nn.GroupNorm(_GROUPS, WIDTH), nn.ReLU())


def small_network(selector: SelectorSettings, classes: tuple[str, ...], seed: int, *, instances: bool) -> SapNet:
    """A network with random weights, the same for a seed."""
    solo = SoloSettings(channels=64, kernel=64, mask_channels=64)
    settings = SapNetSettings(classes=classes, width=WIDTH, selector=selector, solo=solo, instances=instances)
    with seeded(seed, torch.device("cpu")):
        return SapNet(SmallBackbone(len(solo.grids) if instances else LEVELS), settings)
