from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.geometry import Affine2D


class ArraySlide:
    """Level 0 as an array; every px of a raster is the level-0 px under its centre, white outside."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.reads: list[tuple[int, int]] = []

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        self.reads.append(size)
        width, height = size
        x = np.floor(to_level0.tx + to_level0.sx * (np.arange(width) + 0.5)).astype(int)
        y = np.floor(to_level0.ty + to_level0.sy * (np.arange(height) + 0.5)).astype(int)
        inside_x = (x >= 0) & (x < self.pixels.shape[1])
        inside_y = (y >= 0) & (y < self.pixels.shape[0])
        raster = np.full((height, width, 3), 255, np.uint8)
        raster[np.ix_(inside_y, inside_x)] = self.pixels[np.ix_(y[inside_y], x[inside_x])]
        return raster


@pytest.fixture
def noise_slide() -> ArraySlide:
    return ArraySlide(np.random.default_rng(5).integers(0, 255, (230, 310, 3), np.uint8))
