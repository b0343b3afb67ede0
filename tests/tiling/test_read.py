from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.tiling.plan import PatchPair, TilePlan
from wsi_pipeline.tiling.read import prefetch, read_pairs


def pairs_of(plan: TilePlan, number: int = 0, factor: float = 2.0) -> list[PatchPair]:
    return [PatchPair.of_tile(tile, plan.grid, factor) for tile in plan.batch(number)]


def plan_over(*, overlap: int = 32, keep=None, scale: float = 1.0, block: int = 8) -> TilePlan:
    grid = PixelGrid(300, 220, Affine2D(scale, scale, 3.0, 7.0), 0.5 * scale)
    shape = TilePlan.shape(grid, 64, overlap)
    return TilePlan(grid, 64, overlap, np.ones(shape, bool) if keep is None else keep(shape), block)


def assert_same_as_single_reads(slide, pairs: list[PatchPair], images: PairImages) -> None:
    for row, pair in enumerate(pairs):
        np.testing.assert_array_equal(images.high[row], slide.read_grid(pair.high, (64, 64)))
        if images.low is not None:
            np.testing.assert_array_equal(images.low[row], slide.read_grid(pair.low, (64, 64)))


@pytest.mark.parametrize("overlap", [0, 7, 32])
@pytest.mark.parametrize("scale", [0.501, 1.0, 1.25, 1.4028, 2.0, 3.01])
@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_shared_reads_give_to_the_last_bit_the_pixels_of_single_reads(slide, overlap, scale, factor) -> None:
    pairs = pairs_of(plan_over(overlap=overlap, scale=scale), factor=factor)
    assert_same_as_single_reads(slide, pairs, read_pairs(slide, pairs, low=True))


def test_overlapping_tiles_are_fetched_once_per_resolution(slide) -> None:
    pairs = pairs_of(plan_over())
    read_pairs(slide, pairs, low=True)
    assert len(slide.reads) == 2
    assert len(pairs) > 20


def test_low_patches_come_from_a_coarser_level_where_there_is_one(slide) -> None:
    pairs = pairs_of(plan_over(), factor=4.0)
    read_pairs(slide, pairs, low=True)
    high, low = (width * height for width, height in slide.reads)
    assert low < high


def test_tiles_far_apart_are_not_read_with_the_gap_between_them(slide) -> None:
    def corners(shape: tuple[int, int]) -> np.ndarray:
        keep = np.zeros(shape, bool)
        keep[[0, 0, -1, -1], [0, 1, -1, -2]] = True
        return keep

    pairs = pairs_of(plan_over(overlap=16, keep=corners))
    images = read_pairs(slide, pairs, low=False)
    assert len(slide.reads) == 2
    assert slide.reads == [(112, 64), (112, 64)]
    assert_same_as_single_reads(slide, pairs, images)


def test_pieces_stay_within_their_memory(slide, monkeypatch) -> None:
    monkeypatch.setattr("wsi_pipeline.tiling.read.PIECE_PX", 20_000)
    pairs = pairs_of(plan_over())
    images = read_pairs(slide, pairs, low=True)
    assert max(width * height for width, height in slide.reads) <= 20_000
    assert_same_as_single_reads(slide, pairs, images)


def test_patches_of_several_resolutions_in_one_call_keep_their_own_pixels(slide) -> None:
    pairs = [
        PatchPair.around(x, 100, scale=(s, s), size=64, context_factor=2)
        for x, s in ((90, 1), (90.5, 1), (90, 4), (91, 1.3))
    ]
    assert_same_as_single_reads(slide, pairs, read_pairs(slide, pairs, low=True))


def test_outside_the_slide_is_white_and_low_is_left_out_unless_asked_for(slide) -> None:
    pairs = [PatchPair.around(x, -200, scale=(1, 1), size=64, context_factor=2) for x in (-200, -190, 900)]
    images = read_pairs(slide, pairs, low=False)
    assert (images.high == 255).all()
    assert images.low is None


def test_pairs_across_the_border_of_the_slide_are_those_of_single_reads(slide) -> None:
    places = [(x, y) for x in (-10, 20, 600) for y in (5, 30, 450)]
    pairs = [PatchPair.around(x, y, scale=(1.1, 1.1), size=64, context_factor=2) for x, y in places]
    assert_same_as_single_reads(slide, pairs, read_pairs(slide, pairs, low=True))


def test_pairs_of_different_size_are_refused(slide) -> None:
    pairs = [PatchPair.around(50, 50, scale=(1, 1), size=size, context_factor=2) for size in (32, 64)]
    with pytest.raises(ValueError, match="one size"):
        read_pairs(slide, pairs, low=False)


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
