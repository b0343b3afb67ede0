from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.tiling.plan import PatchPair, TilePlan
from wsi_pipeline.tiling.read import prefetch, read_pairs


def pairs_of(plan: TilePlan, number: int = 0, factor: float = 2.0) -> list[PatchPair]:
    return [PatchPair.of_tile(tile, plan.grid, factor) for tile in plan.batch(number)]


def plan_over(width: int, height: int, *, overlap: int, keep=None, scale: float = 1.0) -> TilePlan:
    grid = PixelGrid(width, height, Affine2D(scale, scale, 3.0, 7.0), 0.5 * scale)
    shape = TilePlan.shape(grid, 64, overlap)
    return TilePlan(grid, 64, overlap, np.ones(shape, bool) if keep is None else keep(shape), block=8)


@pytest.mark.parametrize("overlap", [0, 7, 16, 32])
@pytest.mark.parametrize("scale", [1.0, 1.25])
@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_shared_reads_give_the_pixels_of_single_reads(noise_slide, overlap, scale, factor) -> None:
    pairs = pairs_of(plan_over(220, 200, overlap=overlap, scale=scale), factor=factor)
    together = read_pairs(noise_slide, pairs, low=True)
    for row, pair in enumerate(pairs):
        np.testing.assert_array_equal(together.high[row], noise_slide.read_grid(pair.high, (64, 64)))
        np.testing.assert_array_equal(together.low[row], noise_slide.read_grid(pair.low, (64, 64)))


def test_overlapping_tiles_are_read_once_per_resolution(noise_slide) -> None:
    pairs = pairs_of(plan_over(300, 220, overlap=32))
    read_pairs(noise_slide, pairs, low=True)
    assert len(noise_slide.reads) == 2
    assert len(pairs) > 20


def test_low_patches_are_never_read_at_the_high_resolution(noise_slide) -> None:
    pairs = pairs_of(plan_over(300, 220, overlap=32), factor=4.0)
    read_pairs(noise_slide, pairs, low=True)
    high, low = (width * height for width, height in noise_slide.reads)
    assert low < high


def test_tiles_far_apart_are_not_read_with_the_gap_between_them(noise_slide) -> None:
    def corners(shape: tuple[int, int]) -> np.ndarray:
        keep = np.zeros(shape, bool)
        keep[[0, 0, -1, -1], [0, 1, -1, -2]] = True
        return keep

    pairs = pairs_of(plan_over(300, 220, overlap=16, keep=corners))
    images = read_pairs(noise_slide, pairs, low=False)
    assert noise_slide.reads == [(112, 64), (112, 64)]
    for row, pair in enumerate(pairs):
        np.testing.assert_array_equal(images.high[row], noise_slide.read_grid(pair.high, (64, 64)))


def test_patches_of_different_rasters_keep_their_own_pixels(noise_slide) -> None:
    pairs = [
        PatchPair.around(x, 100, scale=(s, s), size=64, context_factor=2)
        for x, s in ((90, 1), (90.5, 1), (90, 2), (91, 1))
    ]
    images = read_pairs(noise_slide, pairs, low=False)
    assert len(noise_slide.reads) == 3
    for row, pair in enumerate(pairs):
        np.testing.assert_array_equal(images.high[row], noise_slide.read_grid(pair.high, (64, 64)))


def test_outside_the_slide_is_white_and_low_is_left_out_unless_asked_for(noise_slide) -> None:
    pair = PatchPair.around(-200, -200, scale=(1, 1), size=64, context_factor=2)
    images = read_pairs(noise_slide, [pair], low=False)
    assert (images.high == 255).all()
    assert images.low is None


def test_pairs_of_different_size_are_refused(noise_slide) -> None:
    pairs = [PatchPair.around(50, 50, scale=(1, 1), size=size, context_factor=2) for size in (32, 64)]
    with pytest.raises(ValueError, match="one size"):
        read_pairs(noise_slide, pairs, low=False)


def test_prefetch_keeps_the_order_and_reads_ahead_of_the_consumer() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(6):
            made.append(number)
            yield number

    stream = prefetch(items(), depth=2)
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1, 2]
    assert list(stream) == [1, 2, 3, 4, 5]


def test_prefetch_works_in_another_thread() -> None:
    names = prefetch(threading.current_thread().name for _ in range(2))
    assert all(name.startswith("prefetch") for name in names)


def test_an_error_while_reading_ahead_is_raised_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("corrupt tile")

    stream = prefetch(items(), depth=3)
    assert next(stream) == 1
    with pytest.raises(OSError, match="corrupt tile"):
        next(stream)
    assert next(stream, "end") == "end"


def test_closing_prefetch_closes_its_source_and_ends_its_thread() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    stream = prefetch(items())
    next(stream)
    stream.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
