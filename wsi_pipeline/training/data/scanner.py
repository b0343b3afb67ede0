"""Other scanners' faults: blur, noise and compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

BEST_QUALITY = 95


@dataclass(frozen=True, slots=True)
class ScanRange:
    """What faults are drawn from; each is off by default.

    Attributes:
        blur: px of the high patch, largest standard deviation.
        noise: grey levels, largest standard deviation.
        jpeg: lowest JPEG quality, 1 to 95; None does not compress.
    """

    blur: float = 0.0
    noise: float = 0.0
    jpeg: int | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """Drawn faults, the same for both patches of a pair; attributes as in ``ScanRange``."""

    blur: float
    noise: float
    jpeg: int | None


def draw_scan(allowed: ScanRange, random: np.random.Generator) -> Scan:
    """Draw faults; the number of draws does not depend on ``allowed``."""
    blur, noise, quality = random.random(3)
    jpeg = None if allowed.jpeg is None else round(allowed.jpeg + quality * (BEST_QUALITY - allowed.jpeg))
    return Scan(blur * allowed.blur, noise * allowed.noise, jpeg)


def scanned(image: np.ndarray, scan: Scan, step: float, random: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 RGB with faults.

    Args:
        image: as it is.
        scan: the faults.
        step: px of the high patch along a px: 1, or the context factor. A coarser patch is an average of finer px, so
            blur and noise are as much smaller.
        random: source of the noise.
    """
    if scan.blur or scan.noise:
        pixels = ndimage.gaussian_filter(image.astype(np.float32), (scan.blur / step, scan.blur / step, 0))
        pixels += random.normal(size=image.shape) * (scan.noise / step)
        image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return image if scan.jpeg is None else _compressed(image, scan.jpeg)


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))
