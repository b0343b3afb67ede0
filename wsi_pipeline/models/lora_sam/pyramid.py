"""From what the encoder gives to feature maps of several strides (keys of RSPrompter's neck).

Layout: B images, an embedding of h x w cells, s px of stride.
"""

from __future__ import annotations

from collections.abc import Sequence

from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CHANNELS

STEPS = 4
"""Levels made from the embedding, of a quarter to twice its stride; one more is the last at every second cell."""
_NARROW = 32


def strides(embedding_stride: float, finest: int) -> list[float]:
    """px of stride of each level, where the embedding has ``embedding_stride``."""
    return [embedding_stride * 2.0 ** (level - 2) for level in range(finest, STEPS + 1)]


def _conv(channels: int, out: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, kernel, padding=kernel // 2), nn.BatchNorm2d(out), nn.ReLU()]


class FeatureAggregator(nn.Module):
    """Hidden states of a plain ViT as one map; every second block's output counts.

    Args:
        dim: d, width of the hidden states.
        depth: L, number of blocks.
    """

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.layers = range(1, depth + 1, 2)
        self.downconvs = nn.ModuleList(
            nn.Sequential(*_conv(dim, _NARROW, 1), *_conv(_NARROW, _NARROW, 3)) for _ in self.layers
        )
        self.hidden_convs = nn.ModuleList(nn.Sequential(*_conv(_NARROW, _NARROW, 3)) for _ in self.layers)
        self.fusion_conv = nn.Sequential(
            *_conv(_NARROW, CHANNELS, 1), *_conv(CHANNELS, CHANNELS, 3), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        )

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """(B, 256, h, w) of the L + 1 hidden states (B, h, w, d): what enters the first block, then every output."""
        total: Tensor | None = None
        for number, narrow, mix in zip(self.layers, self.downconvs, self.hidden_convs, strict=True):
            here = narrow(hidden[number].permute(0, 3, 1, 2))
            total = here if total is None else here + total
            total = total + mix(total)
        return self.fusion_conv(total)


class LightAggregator(nn.Sequential):
    """The embedding (B, 256, h, w) made ready for the pyramid: enough where adapters bend the encoder itself.

    Args:
        inner: channels in between.
    """

    def __init__(self, inner: int) -> None:
        layers: list[nn.Module] = []
        for channels, out, kernel in ((CHANNELS, inner, 1), (inner, inner, 3), (inner, CHANNELS, 3)):
            layers += [nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False), LayerNorm2d(out)]
        super().__init__(*layers)


class _ConvNorm(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.norm_layer = LayerNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_layer(self.conv(x))


class SimpleFeaturePyramid(nn.Module):
    """One map as levels of 1/4, 1/2, 1, 2 and 4 times its stride (Li et al. 2022, "ViTDet").

    Args:
        width: channels of the levels.
        finest: how many of the fine ones to leave out; published: none.
    """

    def __init__(self, width: int = CHANNELS, finest: int = 0) -> None:
        super().__init__()
        half, quarter = CHANNELS // 2, CHANNELS // 4
        if finest == 0:
            self.fpn1 = nn.Sequential(
                nn.ConvTranspose2d(CHANNELS, half, 2, 2),
                LayerNorm2d(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, 2),
            )
        if finest <= 1:
            self.fpn2 = nn.Sequential(nn.ConvTranspose2d(CHANNELS, half, 2, 2))
        channels = (quarter, half, CHANNELS, CHANNELS)[finest:]
        self.lateral_convs = nn.ModuleList(_ConvNorm(count, width, 1) for count in channels)
        self.fpn_convs = nn.ModuleList(_ConvNorm(width, width, 3) for _ in channels)
        self.finest = finest

    def forward(self, x: Tensor) -> list[Tensor]:
        """Levels (B, width, ...) of x (B, 256, h, w), the finest first."""
        resized = [self.fpn1(x)] if self.finest == 0 else []
        resized += [self.fpn2(x)] if self.finest <= 1 else []
        resized += [x, F.max_pool2d(x, 2)]
        levels = [
            smooth(lateral(one))
            for one, lateral, smooth in zip(resized, self.lateral_convs, self.fpn_convs, strict=True)
        ]
        return [*levels, levels[-1][..., ::2, ::2]]


class FeatureNeck(nn.Module):
    """Aggregator and pyramid.

    Args:
        aggregator: makes one map of what the encoder gives.
        pyramid: makes levels of it.
    """

    def __init__(self, aggregator: FeatureAggregator | LightAggregator, pyramid: SimpleFeaturePyramid) -> None:
        super().__init__()
        self.feature_aggregator, self.feature_spliter = aggregator, pyramid

    def forward(self, seen: EncoderOutput) -> list[Tensor]:
        """The levels, the finest first, float32; where hidden states count, the encoder has put them together."""
        if isinstance(self.feature_aggregator, LightAggregator):
            levels = self.feature_spliter(self.feature_aggregator(seen.embedding))
        else:
            levels = self.feature_spliter(seen.early.permute(0, 3, 1, 2))
        # anchors take the dtype of the levels, and half precision has too few digits for px
        return [level.float() for level in levels]
