"""A slide in memory and painted tissue, so that tissue tests read no file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from wsi_pipeline.geometry import Affine2D, Region, Resolution
from wsi_pipeline.slides.info import SlideInfo

GLASS = (243, 242, 244)
STAINED = (190, 110, 165)
PALE = (238, 222, 233)


@dataclass(frozen=True)
class ArraySlide:
    """The two things tissue detection asks of a slide."""

    image: np.ndarray
    info: SlideInfo

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        box = to_level0.region(*size)
        x0, y0, x1, y1 = (round(v) for v in box.bounds)
        cut = np.full((y1 - y0, x1 - x0, 3), 255, np.uint8)
        part = self.image[max(y0, 0) : y1, max(x0, 0) : x1]
        top, left = max(0, -y0), max(0, -x0)
        cut[top : top + part.shape[0], left : left + part.shape[1]] = part
        return np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BOX))


def make_slide(image: np.ndarray, mpp: float, *, bounds: Region | None = None) -> ArraySlide:
    height, width = image.shape[:2]
    info = SlideInfo(
        path="memory",
        name="memory",
        width=width,
        height=height,
        resolution=Resolution(mpp, mpp),
        mpp_source="user",
        bounds=bounds or Region(0, 0, width, height),
        has_bounds=bounds is not None,
        level_sizes=((width, height),),
        reader="image",
        vendor="memory",
        fingerprint="0",
    )
    return ArraySlide(image, info)


@dataclass
class Canvas:
    """An image to paint tissue on, at 8 µm per px."""

    image: np.ndarray
    mpp: float = 8.0

    @classmethod
    def of_glass(cls, height: int = 500, width: int = 600, seed: int = 0) -> Canvas:
        noise = np.random.default_rng(seed).normal(0, 1.5, (height, width, 1))
        return cls(np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8))

    def disc(self, x: int, y: int, radius: int, colour: tuple[int, int, int], texture: float = 0.0) -> np.ndarray:
        """Paint a disc; ``texture`` is the standard deviation of a fine pattern. Returns its mask."""
        rows, cols = np.indices(self.image.shape[:2])
        inside = (cols - x) ** 2 + (rows - y) ** 2 <= radius**2
        self.paint(inside, colour, texture)
        return inside

    def paint(self, inside: np.ndarray, colour: tuple[int, int, int], texture: float = 0.0) -> None:
        pattern = np.random.default_rng(1).normal(0, 1, self.image.shape[:2])
        pattern = ndimage.gaussian_filter(pattern, 0.8)
        values = np.array(colour) + texture * (pattern / pattern.std())[..., None]
        self.image[inside] = np.clip(values, 0, 255).astype(np.uint8)[inside]

    def slide(self, **options: object) -> ArraySlide:
        return make_slide(self.image, self.mpp, **options)  # type: ignore[arg-type]


@pytest.fixture
def canvas() -> Canvas:
    return Canvas.of_glass()


@pytest.fixture
def glass() -> type[Canvas]:
    return Canvas


@pytest.fixture
def slide_of() -> object:
    return make_slide
