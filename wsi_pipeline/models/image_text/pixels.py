"""Images as networks of images and words want them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.preprocess import PixelScale, to_tensor


@dataclass(frozen=True, slots=True)
class SquarePixels:
    """Squares of one size, scaled.

    Attributes:
        size: side, px.
        scale: mean and deviation, of values 0..255.
    """

    size: int
    scale: PixelScale

    @classmethod
    def of_unit(cls, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> SquarePixels:
        """With mean and deviation of values 0..1, as published."""
        r, g, b = (255 * value for value in mean)
        dr, dg, db = (255 * value for value in std)
        return cls(size, PixelScale((r, g, b), (dr, dg, db)))

    def of(self, images: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(B, 3, size, size) of (B, h, w, 3) uint8 RGB images, squashed where they are no squares."""
        pixels = to_tensor(images, device)
        side = (self.size, self.size)
        if pixels.shape[-2:] != side:
            pixels = F.interpolate(pixels, side, mode="bicubic", antialias=True, align_corners=False)
            pixels = pixels.round().clamp(0, 255)
        return self.scale.apply(pixels).to(dtype)
