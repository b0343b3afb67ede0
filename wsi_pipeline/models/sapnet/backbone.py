"""Where feature maps come from: an encoder's embedding, ResNet-50, or a backbone of timm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torchvision.models import ResNet, resnet50
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CHANNELS
from wsi_pipeline.models.preprocess import SAM_PIXELS
from wsi_pipeline.models.sapnet.solo_head import LEVELS

_GROUPS = 32
_IMAGE_STRIDES = (4.0, 8.0, 16.0, 32.0)
_KEY = "features"


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels)


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, _group_norm(out))


class EmbeddedPyramid(nn.Module):
    """Five maps of what a frozen encoder gives.

    Args:
        width: channels of the maps.
        early: channels of the encoder's early map.
        stride: px of the embedding's cells.
        finest: how often the finest map halves that stride.
    """

    def __init__(self, width: int, early: int, stride: float, finest: int = 0) -> None:
        super().__init__()
        self.strides = tuple(stride * 2.0 ** (level - finest) for level in range(LEVELS))
        self.early_norm = LayerNorm2d(early)
        self.join = _conv(CHANNELS + early, width, 1)
        self.finer = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2, bias=False), _group_norm(width)) for _ in range(finest)
        )
        self.coarser = nn.ModuleList(_conv(width, width, 3, 2) for _ in range(LEVELS - 1 - finest))
        self.smooth = nn.ModuleList(_conv(width, width, 3) for _ in range(LEVELS))

    def forward(self, seen: EncoderOutput) -> list[Tensor]:
        """The maps (B, width, ...), the finest first."""
        early = self.early_norm(seen.early.permute(0, 3, 1, 2).float())
        maps = [self.join(torch.cat([seen.embedding.float(), early], dim=1)).relu()]
        for step in self.finer:
            maps.insert(0, step(maps[0]).relu())
        for step in self.coarser:
            maps.append(step(maps[-1]).relu())
        return [smooth(one) for smooth, one in zip(self.smooth, maps, strict=True)]


class _FromCoarsest(ExtraFPNBlock):
    """One level more, of the backbone's coarsest map."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = _conv(channels, width, 3, 2)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return [*results, self.conv(x[-1])], [*names, "coarsest"]


class ImagePyramid(nn.Module):
    """A feature pyramid of five maps, on four of a backbone that looks at the image itself.

    Args:
        body: the backbone.
        channels: of its maps, of strides 4, 8, 16 and 32.
        width: of the levels.
    """

    strides = (*_IMAGE_STRIDES, 2 * _IMAGE_STRIDES[-1])

    def __init__(self, body: nn.Module, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.body = body
        coarsest = _FromCoarsest(channels[-1], width)
        self.neck = FeaturePyramidNetwork(list(channels), width, extra_blocks=coarsest, norm_layer=_group_norm)

    def look(self, pixels: Tensor) -> Sequence[Tensor]:
        """The backbone's four maps of scaled pixels (B, 3, H, W)."""
        maps: Sequence[Tensor] = self.body(pixels)
        return maps

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """The maps (B, width, ...) of pixels (B, 3, H, W) of values 0..255, the finest first."""
        maps = OrderedDict((str(number), one) for number, one in enumerate(self.look(SAM_PIXELS.apply(pixels))))
        return list(self.neck(maps).values())

    def load_body(self, path: Path) -> None:
        """Fill the backbone from a file of its whole network, of which the rest is ignored.

        Raises:
            WeightsError: the file is missing, unsafe, or of another network.
        """
        own = self.body.state_dict()
        state = {key: value for key, value in read_state_dict(path).items() if key in own}
        load_into(self.body, state, where=path)

    def train(self, mode: bool = True) -> Self:
        """As usual but for batch norms, whose statistics stay what they are."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class ResNetFpn(ImagePyramid):
    """The published backbone: ResNet-50 of torchvision's layout, with stem and first stage frozen.

    Args:
        width: of the levels.
    """

    def __init__(self, width: int = 256) -> None:
        body = resnet50(norm_layer=FrozenBatchNorm2d)
        body.fc = nn.Identity()
        for part in (body.conv1, body.layer1):
            part.requires_grad_(False)
        super().__init__(body, (256, 512, 1024, 2048), width)

    def look(self, pixels: Tensor) -> Sequence[Tensor]:
        body = self.body
        assert isinstance(body, ResNet)
        maps = [body.maxpool(body.relu(body.bn1(body.conv1(pixels))))]
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]


class TimmFpn(ImagePyramid):
    """A backbone of timm that has maps of strides 4, 8, 16 and 32.

    Args:
        name: as timm calls it.
        width: of the levels.

    Raises:
        WorkflowError: timm is not installed, or has no such backbone.
    """

    def __init__(self, name: str, width: int = 256) -> None:
        body = _timm_body(name)
        super().__init__(body.model, body.feature_info.channels(), width)
        self._indices = body.out_indices

    def look(self, pixels: Tensor) -> Sequence[Tensor]:
        body: Any = self.body
        maps: Sequence[Tensor] = body.forward_intermediates(
            pixels, indices=self._indices, intermediates_only=True, output_fmt="NCHW"
        )
        return maps


def _timm_body(name: str) -> Any:
    """A backbone that nobody trained, and where in it the maps are."""
    try:
        import timm
    except ModuleNotFoundError:
        fix = "Run `pip install timm`, or use embedding"
        raise WorkflowError(f"the backbone {name} needs the package timm", where=_KEY, fix=fix) from None
    last = tuple(range(-len(_IMAGE_STRIDES), 0))
    try:
        body: Any = timm.create_model(
            name, pretrained=False, features_only=True, feature_cls="getter", out_indices=last
        )
        strides = tuple(map(float, body.feature_info.reduction()))
    except (RuntimeError, AttributeError, AssertionError, ValueError, TypeError, IndexError):  # as its maker likes it
        strides = ()
    if strides != _IMAGE_STRIDES:
        fix = "Use embedding, resnet50, or a backbone such as convnext_tiny"
        raise WorkflowError(f"timm has no backbone {name} with maps of strides 4 to 32", where=_KEY, fix=fix)
    return body
