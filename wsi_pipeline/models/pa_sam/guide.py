"""What guides PA-SAM's prompt adapter: the image at a low resolution and its edges (Xie et al. 2024).

The published code takes the edges of the normalised image after a cast to bytes. Its values lie between -2.2 and 2.7,
and the cast of a negative number wraps around (-1.3 becomes 255), so these edges are mostly changes of sign. Weights
trained on them need them (``published``); heads trained here can use those of the pixels themselves (``image``).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.prompt_encoder import PromptEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import channel_norm
from wsi_pipeline.models.mask_decoder import CHANNELS
from wsi_pipeline.models.pa_sam.canny import canny
from wsi_pipeline.models.preprocess import SAM_PIXELS, pad_to_square

EdgeSource = Literal["published", "image"]

GUIDE_SIDE = 256
"""Side of the guide image in px: four per cell of the embedding."""


class Guide(NamedTuple):
    """What the adapter needs of B images besides their embeddings, computed once per image.

    Attributes:
        tokens: (B, N, 256) guiding embedding; B may be 1 for prompts that are images of their own.
        marks: (2, 256), the prompt encoder's embeddings of a point outside and of one inside.
    """

    tokens: Tensor
    marks: Tensor


def point_marks(encoder: PromptEncoder) -> Tensor:
    """``Guide.marks`` of a prompt encoder."""
    outside, inside = encoder.point_embeddings[0], encoder.point_embeddings[1]
    assert isinstance(outside, nn.Embedding)
    assert isinstance(inside, nn.Embedding)
    return torch.cat([outside.weight, inside.weight])


def guide_image(pixels: Tensor, side: int, edges: EdgeSource = "published") -> Tensor:
    """Guide images, normalised as SAM's input whatever the encoder.

    Args:
        pixels: (B, 3, h, w) float RGB 0..255.
        side: of the square that the model pads images to, in px.
        edges: what to draw the edges of.

    Returns:
        (B, 4, 256, 256) float32: the image and its edges, 0 or 1.
    """
    pixels = pixels.float()
    image = _shrink(pad_to_square(SAM_PIXELS.apply(pixels), side))
    drawn = _wrapped_bytes(image) if edges == "published" else _pixel_bytes(pixels, side)
    return torch.cat([image, canny(drawn).unsqueeze(1).to(image.dtype)], dim=1)


def _shrink(images: Tensor) -> Tensor:
    return F.interpolate(images, (GUIDE_SIDE, GUIDE_SIDE), mode="bilinear", align_corners=False)


def _wrapped_bytes(image: Tensor) -> Tensor:
    """Truncated towards zero, modulo 256; in C the cast of a negative number to a byte is undefined."""
    return image.int().remainder(256).to(torch.uint8)


def _pixel_bytes(pixels: Tensor, side: int) -> Tensor:
    """The guide's pixels 0..255, made from whole numbers so that rounding is the same everywhere."""
    ground = torch.tensor(SAM_PIXELS.mean, device=pixels.device).round().view(3, 1, 1)
    square = pad_to_square(pixels - ground, side) + ground
    return _shrink(square).round().to(torch.uint8)


class GuidingConv(nn.Sequential):
    """Guide images (B, 4, 256, 256) to the guiding embedding as tokens (B, 4096, 256). Keys ``0`` .. ``6``."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(4, CHANNELS // 4, kernel_size=2, stride=2),
            LayerNorm2d(CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(CHANNELS // 4, CHANNELS, kernel_size=2, stride=2),
            LayerNorm2d(CHANNELS),
            nn.GELU(),
            nn.Conv2d(CHANNELS, CHANNELS, kernel_size=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        first, norm_1, _, second, norm_2, _, point = self
        assert isinstance(point, nn.Conv2d)
        x = first(image.to(point.weight.dtype)).permute(0, 2, 3, 1)
        x = F.gelu(channel_norm(norm_1, x)).permute(0, 3, 1, 2)
        x = F.gelu(channel_norm(norm_2, second(x).permute(0, 2, 3, 1)))
        return F.linear(x, point.weight.flatten(1), point.bias).flatten(1, 2)
