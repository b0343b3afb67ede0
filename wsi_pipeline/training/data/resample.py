"""Pictures looked at through arbitrary points: the image averaged and interpolated, labels taken from the nearest px.

Points (..., 2) are (x, y) in px of the picture, integers at px corners.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from wsi_pipeline.training.data.samples import Picture

Beyond = Literal["reflect", "white"]


def look(picture: Picture, points: np.ndarray, spacing: float, beyond: Beyond) -> Picture:
    """The picture at ``points``.

    Args:
        picture: where to look.
        points: (H, W, 2) float64.
        spacing: px of the picture between neighbouring points; the image is averaged over as much.
        beyond: what the image is outside of the picture. Labels are 0 there, as the mirror image of an object would
            be a second part of it, and nothing is known.
    """
    height, width = picture.labels.shape
    x, y = points[..., 0], points[..., 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    folded = points.copy()
    folded[~inside] = _folded(points[~inside], np.array([width, height]))
    image = _interpolated(_averaged(picture.image, spacing), folded)
    if beyond == "white":
        image[~inside] = 255
    columns, rows = np.minimum(folded.astype(np.int64), (width - 1, height - 1)).transpose(2, 0, 1)
    labels = np.where(inside, picture.labels[rows, columns], 0).astype(np.int32)
    return Picture(image, labels, inside & picture.known[rows, columns])


def _folded(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Points mirrored into [0, size] at the picture's edges, as often as it takes."""
    around = np.mod(points, 2 * size)
    return np.minimum(around, 2 * size - around)


def _averaged(image: np.ndarray, spacing: float) -> np.ndarray:
    """(H, W, 3) float32, without the detail that points so far apart would alias."""
    sigma = max(0.0, (spacing - 1) / 2)
    return ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="reflect")


def _interpolated(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    grid = torch.from_numpy(points / (width, height) * 2 - 1).float()
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    values = F.grid_sample(pixels[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return np.rint(values[0].permute(1, 2, 0).numpy()).astype(np.uint8)
