"""From slide pixels to network input, and from low-resolution logits back to pixels.

The pipeline's patches already have the model's size; resizing and padding are for whole images of any shape, the way
the published predictors treat them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class PixelScale:
    """How a model wants its pixels: ``(value - mean) / std`` per channel, for values 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def apply(self, pixels: Tensor) -> Tensor:
        """Scale (..., 3, H, W) float pixels 0..255."""
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std


SAM_PIXELS = PixelScale(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
UNIT_PIXELS = PixelScale(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
"""LiteMedSAM's: 0..1."""


def to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """(B, 3, H, W) float32 pixels 0..255, channels last in memory, of (B, H, W, 3) uint8 RGB."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()


def resized_shape(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) after scaling the longest side to ``longest`` px, rounded half up as published."""
    scale = longest / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resize_longest_side(image: np.ndarray, longest: int) -> Tensor:
    """Scale an image (H, W, 3) uint8 RGB to a longest side of ``longest`` px: (3, h, w) float32, whole numbers."""
    height, width = image.shape[:2]
    pixels = to_tensor(image[None], torch.device("cpu"))
    size = resized_shape(height, width, longest)
    return F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)[0].round().clamp(0, 255)


def resize_coordinates(xy: Tensor, original_size: tuple[int, int], longest: int) -> Tensor:
    """Points (..., 2) or boxes (..., 4) of an original image of (height, width) px in the resized image's px."""
    height, width = original_size
    new_height, new_width = resized_shape(height, width, longest)
    scale = torch.tensor([new_width / width, new_height / height], dtype=xy.dtype, device=xy.device)
    return xy * scale.repeat(xy.shape[-1] // 2)


def pad_to_square(pixels: Tensor, side: int) -> Tensor:
    """Zeros right of and below (..., h, w); for scaled pixels that is the mean colour."""
    return F.pad(pixels, (0, side - pixels.shape[-1], 0, side - pixels.shape[-2]))


def restore(logits: Tensor, side: int, resized: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
    """Undo padding and resizing of mask logits.

    Args:
        logits: (N, K, 256, 256) of the padded square.
        side: the square's side in px.
        resized: (height, width) of the image within the square, px.
        original_size: (height, width) of the image the masks are wanted for, px.

    Returns:
        (N, K, *original_size) logits.
    """
    if logits.shape[-1] != side:
        logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    logits = logits[..., : resized[0], : resized[1]]
    return F.interpolate(logits, original_size, mode="bilinear", align_corners=False)
