"""Layers of the published networks, applied to maps whose channels come last.

In SAM's decoders every up-scaling convolution has a 2 x 2 kernel and stride 2: each cell becomes four px that depend
on this cell alone. Kept "packed", (..., h, w, 2, 2, C), such a layer is one matrix product and no data moves; only
what is at last wanted as an image is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


class EncoderOutput(NamedTuple):
    """What an image encoder gives.

    Attributes:
        embedding: (B, 256, 64, 64), after the neck.
        early: (B, 64, 64, Ve), an early feature map, channels last; HQ-SAM's and WSI-SAM's decoders use it.
    """

    embedding: Tensor
    early: Tensor

    def in_float32(self) -> EncoderOutput:
        """As small networks on it compute, whatever the encoder did."""
        return EncoderOutput(*(part.float() for part in self))

    def few_at_once(self, images: int) -> Iterator[EncoderOutput]:
        """Those of at most so many images after the other."""
        for some in zip(*(part.split(images) for part in self), strict=True):
            yield EncoderOutput(*some)


def channel_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a LayerNorm2d to x (..., C), channels last, in one pass."""
    assert isinstance(norm, LayerNorm2d)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def split_cells(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2 x 2, stride 2 transposed convolution to every cell of x (..., C): (..., 2, 2, C') as (row, column)."""
    assert isinstance(conv, nn.ConvTranspose2d)
    weight = conv.weight.permute(2, 3, 1, 0)
    bias = None if conv.bias is None else conv.bias.repeat(4)
    return F.linear(x, weight.reshape(-1, weight.shape[-1]), bias).unflatten(-1, (2, 2, -1))


def unpack(cells: Tensor) -> Tensor:
    """Image (n, 4h, 4w, C) of twice split cells (n, h, w, 2, 2, 2, 2, C)."""
    n, h, w = cells.shape[:3]
    return cells.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, 4 * h, 4 * w, cells.shape[-1])


class Neck(nn.Sequential):
    """SAM's neck: (B, H, W, C) tokens to a (B, 256, H, W) embedding. Keys ``0`` .. ``3``."""

    def __init__(self, channels: int, out_channels: int = 256) -> None:
        super().__init__(
            nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        point, norm_1, conv, norm_2 = (self.get_submodule(key) for key in "0123")
        assert isinstance(point, nn.Conv2d)
        x = channel_norm(norm_1, F.linear(x, point.weight.flatten(1)))
        x = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return channel_norm(norm_2, x).permute(0, 3, 1, 2)
