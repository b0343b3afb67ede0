"""Rasters of any scale and offset from one level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.slides import resample
from wsi_pipeline.slides.resample import sample

WIDTH, HEIGHT = 240, 180


def ramp() -> np.ndarray:
    """Red grows with x, green with y, blue against x; the value at a point is known without interpolation."""
    x, y = np.arange(WIDTH) + 0.5, np.arange(HEIGHT)[:, None] + 0.5
    red, green = np.broadcast_to(x, (HEIGHT, WIDTH)), np.broadcast_to(y, (HEIGHT, WIDTH))
    return np.stack([red, green, 250 - red], axis=2).round().astype(np.uint8)


RAMP = ramp()
NOISE = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def read_from(image: np.ndarray, to_level: Affine2D, size: tuple[int, int]) -> np.ndarray:
    def read(x: int, y: int, width: int, height: int) -> np.ndarray:
        assert x >= 0
        assert y >= 0
        assert width > 0
        assert height > 0
        assert x + width <= image.shape[1]
        assert y + height <= image.shape[0]
        return image[y : y + height, x : x + width].copy()

    return sample(read, (image.shape[1], image.shape[0]), to_level, size)


corner = st.integers(-300, 300)
side = st.integers(1, 90)


@given(x=corner, y=corner, width=side, height=side)
def test_whole_pixels_are_copied_and_all_outside_is_white(x: int, y: int, width: int, height: int) -> None:
    got = read_from(NOISE, Affine2D(1, 1, x, y), (width, height))
    padded = np.full((HEIGHT + 800, WIDTH + 800, 3), 255, np.uint8)
    padded[400 : 400 + HEIGHT, 400 : 400 + WIDTH] = NOISE
    assert np.array_equal(got, padded[400 + y : 400 + y + height, 400 + x : 400 + x + width])


@settings(deadline=None)
@given(
    scale_x=st.floats(0.3, 7),
    scale_y=st.floats(0.3, 7),
    x=st.floats(0, 100),
    y=st.floats(0, 100),
)
def test_linear_ramp_has_the_value_of_the_affine_at_any_scale_and_offset(
    scale_x: float, scale_y: float, x: float, y: float
) -> None:
    affine = Affine2D(scale_x, scale_y, x, y)
    width, height = int((WIDTH - x) / scale_x), int((HEIGHT - y) / scale_y)
    got = read_from(RAMP, affine, (width, height)).astype(float)
    centre_x = (np.arange(width) + 0.5) * scale_x + x
    centre_y = (np.arange(height) + 0.5) * scale_y + y
    # Only where the filter sees nothing beyond the level, whose outside is white.
    inner_x = (centre_x > 2 * max(1, scale_x)) & (centre_x < WIDTH - 2 * max(1, scale_x))
    inner_y = (centre_y > 2 * max(1, scale_y)) & (centre_y < HEIGHT - 2 * max(1, scale_y))
    inner = np.ix_(inner_y, inner_x)
    for channel, expected in ((0, centre_x), (2, 250 - centre_x)):
        wanted = np.broadcast_to(expected, (height, width))
        assert np.all(np.abs(got[..., channel][inner] - wanted[inner]) <= 1)
    wanted = np.broadcast_to(centre_y[:, None], (height, width))
    assert np.all(np.abs(got[..., 1][inner] - wanted[inner]) <= 1)


@settings(deadline=None)
@given(
    scale=st.floats(0.4, 6),
    x=st.floats(-50, 200),
    y=st.floats(-50, 150),
    col=st.integers(0, 200),
    row=st.integers(0, 150),
    width=st.integers(1, 100),
    height=st.integers(1, 100),
)
def test_part_of_a_resampled_raster_is_the_crop_of_the_whole(
    scale: float, x: float, y: float, col: int, row: int, width: int, height: int
) -> None:
    affine = Affine2D(scale, scale, x, y)
    whole = read_from(NOISE, affine, (300, 250))
    part = read_from(NOISE, affine.shifted(col, row), (width, height))
    assert np.array_equal(part, whole[row : row + height, col : col + width])


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    got = read_from(stripes, Affine2D(4, 4, 0, 0), (16, 16))
    assert np.all(np.abs(got[2:-2, 2:-2].astype(int) - 100) <= 2)


@pytest.mark.parametrize("affine", [Affine2D(1, 1, 1000, 0), Affine2D(2.5, 2.5, -500, -500)])
def test_raster_wholly_outside_is_white_and_reads_nothing(affine: Affine2D) -> None:
    def read(x: int, y: int, width: int, height: int) -> np.ndarray:
        raise AssertionError("nothing to read there")

    assert np.all(sample(read, (WIDTH, HEIGHT), affine, (30, 20)) == 255)


@pytest.mark.parametrize("scale", [0.4, 3.3, 150.0])
def test_source_held_at_once_is_bounded_whatever_the_scale(scale: float) -> None:
    largest = 0

    def read(x: int, y: int, width: int, height: int) -> np.ndarray:
        nonlocal largest
        largest = max(largest, width, height)
        return np.zeros((height, width, 3), np.uint8)

    sample(read, (100_000, 3000), Affine2D(scale, 3.3, 0.5, 0.5), (5, 900))
    assert largest <= resample.MAX_SOURCE_SIDE + 2 * max(scale, 3.3) + 5


def test_a_billionth_off_the_levels_pixels_still_copies() -> None:
    got = read_from(NOISE, Affine2D(1 + 1e-9, 1 - 1e-9, 10 + 1e-7, 20 - 1e-7), (100, 100))
    assert np.array_equal(got, NOISE[20:120, 10:110])
