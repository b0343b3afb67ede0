"""Swin as published for detection (Liu et al. 2021): maps of all four stages, each normalised, of images of any size.

timm's parts in the published order and under the published keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class SwinSize:
    """What the published sizes differ in.

    Attributes:
        width: channels of the finest stage, doubled from stage to stage.
        depths: blocks of the stages.
        heads: of the finest stage's attention, doubled from stage to stage.
        window: cells along the side of the windows.
    """

    width: int
    depths: tuple[int, ...]
    heads: int
    window: int

    @property
    def channels(self) -> list[int]:
        """Of the maps, the finest first."""
        return [self.width * 2**stage for stage in range(len(self.depths))]


SWIN_SIZES = {"swin-t": SwinSize(96, (2, 2, 6, 2), 3, 7), "swin-l": SwinSize(192, (2, 2, 18, 2), 6, 12)}


class _Block(SwinTransformerBlock):
    def _attn(self, x: Tensor) -> Tensor:
        """Padded to whole windows and then shifted, as published; timm shifts first, with other neighbours at edges."""
        height, width = x.shape[1:3]
        below, right = (-side % window for side, window in zip((height, width), self.window_size, strict=True))
        seen: Tensor = super()._attn(F.pad(x, (0, 0, 0, right, 0, below)))
        return seen[:, :height, :width].contiguous()


class _Stage(nn.Module):
    """Blocks, windows shifted in every second, and what halves the sides for the next stage."""

    def __init__(self, size: SwinSize, number: int) -> None:
        super().__init__()
        width = size.channels[number]
        self.blocks = nn.Sequential(
            *(
                _Block(
                    width,
                    input_resolution=(size.window, size.window),  # no bounds are drawn from it
                    num_heads=size.heads * 2**number,
                    window_size=size.window,
                    shift_size=size.window // 2 * (block % 2),
                    always_partition=True,
                    dynamic_mask=True,
                )
                for block in range(size.depths[number])
            )
        )
        last = number == len(size.depths) - 1
        self.downsample = nn.Identity() if last else PatchMerging(width)


class Swin(nn.Module):
    """The backbone, for inference: it drops no paths."""

    def __init__(self, size: SwinSize) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(
            None, patch_size=4, embed_dim=size.width, norm_layer=nn.LayerNorm, output_fmt="NHWC", dynamic_img_pad=True
        )
        self.layers = nn.ModuleList(_Stage(size, number) for number in range(len(size.depths)))
        for number, width in enumerate(size.channels):
            self.add_module(f"norm{number}", nn.LayerNorm(width))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps (B, C_i, H/s_i, W/s_i) of strides 4, 8, 16, 32 px of scaled pixels (B, 3, H, W)."""
        x, maps = self.patch_embed(pixels), []
        for number, stage in enumerate(self.layers.children()):
            x = stage.get_submodule("blocks")(x)
            maps.append(self.get_submodule(f"norm{number}")(x).permute(0, 3, 1, 2))
            x = stage.get_submodule("downsample")(x)
        return maps
