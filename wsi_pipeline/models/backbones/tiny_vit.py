"""TinyViT as MobileSAM and LiteMedSAM use it (Wu et al. 2022; Zhang et al. 2023; keys of the published files).

Two convolutions embed the image, then four stages: MBConv blocks, and three stages of window attention. Tokens are
kept as (B, H, W, C) all the way, so that point-wise layers are matrix products and nothing is transposed.

Unlike the published code the attention biases are expanded from their parameter whenever they are used, so they
cannot be stale after loading weights.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import EncoderOutput, Neck

WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
"""Channels, blocks, attention heads and window sides (in tokens) of the four stages; the first has no attention."""


class ConvNorm(nn.Sequential):
    """Convolution without bias and batch norm, (B, H, W, C) -> (B, H', W', C'). Keys ``c`` and ``bn``."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False) -> None:
        super().__init__()
        groups = channels if depthwise else 1
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self
        return norm(conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)

    @torch.no_grad()
    def folded(self) -> FoldedConv:
        """The same layer in evaluation mode, as one convolution with bias."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return FoldedConv(conv, conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale)


class FoldedConv(nn.Module):
    """A convolution with its batch norm folded in, (B, H, W, C) -> (B, H', W', C'); for inference only."""

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1)
        if self.pointwise:
            weight = weight.flatten(1)
        else:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        if self.pointwise:
            return F.linear(x, self.weight, self.bias)
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return y.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Two convolutions, 3 -> 32 -> 64 channels; MobileSAM halves the image twice, LiteMedSAM keeps its size."""

    def __init__(self, *, halving: bool) -> None:
        super().__init__()
        kernel, stride = (3, 2) if halving else (1, 1)
        half = WIDTHS[0] // 2
        first, second = ConvNorm(3, half, kernel, stride), ConvNorm(half, WIDTHS[0], kernel, stride)
        self.seq = nn.Sequential(first, nn.GELU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted residual block: expand fourfold, depth-wise 3 x 3, project; GELU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv1 = ConvNorm(channels, wide)
        self.conv2 = ConvNorm(wide, wide, 3, depthwise=True)
        self.conv3 = ConvNorm(wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(y))


class Merging(nn.Module):
    """Go to the next stage's width and, unless ``stride`` is 1, to half the side."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, out)
        self.conv2 = ConvNorm(out, out, 3, stride, depthwise=True)
        self.conv3 = ConvNorm(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Attention within windows (n, w * w, C), with its own layer norm and a learned bias per |dy|, |dx|."""

    offsets: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        y, x = y.flatten(), x.flatten()
        apart = (y[:, None] - y).abs() * window + (x[:, None] - x).abs()
        self.register_buffer("offsets", apart, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # the published layout is (heads, [q k v], d), unlike SAM's
        qkv = self.qkv(self.norm(x)).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.offsets].unsqueeze(0)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Layer norm, fourfold expansion, GELU, projection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Window attention, a depth-wise convolution over the whole map (no residual), MLP."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.mlp = Mlp(channels)
        self.local_conv = ConvNorm(channels, channels, 3, depthwise=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(x)
        x = self.local_conv(x)
        return x + self.mlp(x)

    def _attend(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        side = self.window
        # zeros are added before the inner norm and not masked: the published weights expect it
        x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(b, rows, side, columns, side, c).transpose(2, 3).reshape(-1, side * side, c)
        x = self.attn(x).view(b, rows, columns, side, side, c).transpose(2, 3)
        return x.reshape(b, rows * side, columns * side, c)[:, :h, :w]


class Stage(nn.Module):
    """The blocks of a stage and the merging that follows it (none after the last)."""

    def __init__(self, number: int) -> None:
        super().__init__()
        width = WIDTHS[number]
        if number == 0:
            blocks: list[nn.Module] = [MBConv(width) for _ in range(DEPTHS[0])]
        else:
            blocks = [TinyViTBlock(width, HEADS[number], WINDOWS[number]) for _ in range(DEPTHS[number])]
        self.blocks = nn.ModuleList(blocks)
        # the map stays at 64 x 64 from the third stage on
        self.downsample = Merging(width, WIDTHS[number + 1], stride=1 if number == 2 else 2) if number < 3 else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """Image encoder of MobileSAM (``image_size`` 1024) and LiteMedSAM (256).

    Args:
        image_size: side of the input in px.
        halving: whether the patch embedding halves the image twice.
        with_head: keep the classification head that MobileSAM's file holds; it is never used.
    """

    early_channels = WIDTHS[2]

    def __init__(self, image_size: int, *, halving: bool, with_head: bool) -> None:
        super().__init__()
        self.image_size = image_size
        self.patch_embed = PatchEmbed(halving=halving)
        self.layers = nn.ModuleList(Stage(number) for number in range(4))
        if with_head:
            self.norm_head = nn.LayerNorm(WIDTHS[3])
            self.head = nn.Linear(WIDTHS[3], 1000)
        self.neck = Neck(WIDTHS[3])

    def forward(self, x: Tensor) -> EncoderOutput:
        """Encode preprocessed images (B, 3, S, S); the early feature is the second stage's, (B, 64, 64, 160)."""
        x = self.patch_embed(x.permute(0, 2, 3, 1))
        x = self.layers[0](x)
        early = self.layers[1](x)
        x = self.layers[3](self.layers[2](early))
        return EncoderOutput(self.neck(x), early)


def mobile_sam_encoder() -> TinyViT:
    """MobileSAM's encoder: 1024 px, 3 x 3 stride 2 patch embedding."""
    return TinyViT(1024, halving=True, with_head=True)


def lite_medsam_encoder() -> TinyViT:
    """LiteMedSAM's encoder: 256 px, 1 x 1 patch embedding."""
    return TinyViT(256, halving=False, with_head=False)


def fuse_for_inference(encoder: TinyViT) -> TinyViT:
    """A copy with batch norms folded into their convolutions: same output, faster, but with other keys."""
    fused = copy.deepcopy(encoder).eval()
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvNorm):
                setattr(parent, name, child.folded())
    return fused
