from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.tiling.plan import PatchPair, TilePlan

quick = settings(deadline=None, max_examples=50)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    size = draw(st.integers(6, 40))
    overlap = draw(st.integers(0, size // 2))
    grid = PixelGrid(
        draw(st.integers(1, 110)), draw(st.integers(1, 110)), Affine2D(1.7, 1.7, draw(st.floats(-50, 50)), 3.0), 0.4
    )
    shape = TilePlan.shape(grid, size, overlap)
    keep = np.random.default_rng(draw(st.integers(0, 99))).random(shape) < draw(st.sampled_from([0.2, 0.7, 1.1]))
    return TilePlan(grid, size, overlap, keep, draw(st.integers(1, 5)))


def all_tiles(plan: TilePlan) -> list:
    return [plan.tile(row, col) for row in range(plan.rows) for col in range(plan.cols)]


@quick
@given(plans(), st.integers(1, 40))
def test_spread_takes_kept_tiles_from_end_to_end(plan: TilePlan, most: int) -> None:
    everything = [plan.tile(int(row), int(col)) for row, col in np.argwhere(plan.keep)]
    some = plan.spread(most)
    assert len(some) == min(most, len(everything))
    assert some == sorted((one for one in everything if one in some), key=lambda tile: tile.index)
    if len(some) > 1:
        assert (some[0], some[-1]) == (everything[0], everything[-1])


@quick
@given(plans())
def test_the_batch_of_a_tile_is_the_one_that_holds_it(plan: TilePlan) -> None:
    held = {tile.index: number for number in range(plan.n_batches) for tile in plan.batch(number)}
    assert plan.batches_of(np.array(list(held), np.int64)).tolist() == list(held.values())


@quick
@given(plans())
def test_cores_partition_the_grid(plan: TilePlan) -> None:
    times = np.zeros((plan.grid.height, plan.grid.width), int)
    for tile in all_tiles(plan):
        x0, y0, x1, y1 = tile.core
        times[y0:y1, x0:x1] += 1
    assert (times == 1).all()


@quick
@given(plans())
def test_every_tile_sees_half_the_overlap_around_its_core_where_a_neighbour_is(plan: TilePlan) -> None:
    half = plan.overlap // 2
    for tile in all_tiles(plan):
        x0, y0, x1, y1 = tile.core
        assert tile.x <= x0 - (half if tile.col else 0)
        assert tile.y <= y0 - (half if tile.row else 0)
        assert tile.x + tile.size >= x1 + (half if tile.col < plan.cols - 1 else 0)
        assert tile.y + tile.size >= y1 + (half if tile.row < plan.rows - 1 else 0)


@quick
@given(plans())
def test_neighbouring_tiles_share_exactly_the_overlap(plan: TilePlan) -> None:
    for tile in all_tiles(plan):
        if tile.col < plan.cols - 1:
            assert plan.tile(tile.row, tile.col + 1).x == tile.x + tile.size - plan.overlap
        if tile.row < plan.rows - 1:
            assert plan.tile(tile.row + 1, tile.col).y == tile.y + tile.size - plan.overlap


@quick
@given(plans())
def test_padding_is_shared_by_both_ends(plan: TilePlan) -> None:
    first, last = plan.tile(0, 0), plan.tile(plan.rows - 1, plan.cols - 1)
    for before, after in (
        (-first.x, last.x + last.size - plan.grid.width),
        (-first.y, last.y + last.size - plan.grid.height),
    ):
        assert 0 <= before <= after <= before + 1


@quick
@given(plans())
def test_batches_partition_the_kept_tiles(plan: TilePlan) -> None:
    numbers = [tile.index for tile in plan.tiles()]
    assert sorted(numbers) == np.flatnonzero(plan.keep).tolist()
    assert len(plan) == len(numbers)
    assert all(0 < len(plan.batch(number)) <= plan.block**2 for number in range(plan.n_batches))


@quick
@given(plans())
def test_batch_bounds_hold_every_tile_of_the_batch(plan: TilePlan) -> None:
    for number in range(plan.n_batches):
        x0, y0, x1, y1 = plan.batch_bounds(number)
        for tile in plan.batch(number):
            assert x0 <= tile.x
            assert y0 <= tile.y
            assert x1 >= tile.x + tile.size
            assert y1 >= tile.y + tile.size


@quick
@given(plans(), st.integers(-20, 200), st.integers(-20, 200), st.integers(1, 90), st.integers(1, 90))
def test_batches_meeting_a_rectangle_are_those_whose_bounds_share_area_with_it(
    plan: TilePlan, x: int, y: int, width: int, height: int
) -> None:
    expected = []
    for number in range(plan.n_batches):
        x0, y0, x1, y1 = plan.batch_bounds(number)
        if min(x1, x + width) > max(x0, x) and min(y1, y + height) > max(y0, y):
            expected.append(number)
    assert plan.batches_meeting(x, y, x + width, y + height) == expected


@quick
@given(plans())
def test_every_tile_that_meets_a_rectangle_is_in_a_batch_that_meets_it(plan: TilePlan) -> None:
    rectangle = (plan.grid.width * 0.3, plan.grid.height * 0.3, plan.grid.width * 0.6, plan.grid.height * 0.6)
    seen = {tile.index for number in plan.batches_meeting(*rectangle) for tile in plan.batch(number)}
    for tile in plan.tiles():
        x0, y0, x1, y1 = rectangle
        if tile.x < x1 and tile.x + tile.size > x0 and tile.y < y1 and tile.y + tile.size > y0:
            assert tile.index in seen


def test_an_overlap_of_more_than_half_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap 33 px"):
        TilePlan.shape(PixelGrid(100, 100, Affine2D(), 1.0), 64, 33)


factors = st.sampled_from([1.5, 2.0, 3.0, 4.0, 16.0])
scales = st.floats(0.3, 70)


@quick
@given(plans(), factors)
def test_the_high_patch_of_a_tile_is_the_tile_wherever_it_lies(plan: TilePlan, factor: float) -> None:
    for tile in all_tiles(plan):
        pair = PatchPair.of_tile(tile, plan.grid, factor)
        corners = pair.high.apply(np.array([[0, 0], [tile.size, tile.size]]))
        on_grid = np.array([[tile.x, tile.y], [tile.x + tile.size, tile.y + tile.size]])
        np.testing.assert_allclose(corners, plan.grid.to_level0.apply(on_grid), atol=1e-9)


@quick
@given(plans(), factors)
def test_both_patches_of_a_tile_have_one_centre(plan: TilePlan, factor: float) -> None:
    for tile in (plan.tile(0, 0), plan.tile(plan.rows - 1, plan.cols - 1)):
        pair = PatchPair.of_tile(tile, plan.grid, factor)
        middle = np.array([tile.size / 2, tile.size / 2])
        np.testing.assert_allclose(pair.low.apply(middle), pair.high.apply(middle), atol=1e-9)


@quick
@given(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5), scales, scales, factors, st.sampled_from([64, 256, 1024]))
def test_high_to_low_is_the_way_through_the_slide(
    x: float, y: float, sx: float, sy: float, factor: float, size: int
) -> None:
    pair = PatchPair.around(x, y, scale=(sx, sy), size=size, context_factor=factor)
    points = np.array([[0, 0], [size, size], [size / 2, size / 2], [0.5, size - 0.25], [-3, size + 9]])
    through_slide = pair.low.inverse().apply(pair.high.apply(points))
    np.testing.assert_allclose(pair.high_to_low(points), through_slide, atol=1e-6)
    np.testing.assert_allclose(pair.high.inverse().apply(pair.high.apply(points)), points, atol=1e-6)


@quick
@given(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5), scales, factors)
def test_the_low_patch_sees_the_context_factor_times_as_far(x: float, y: float, scale: float, factor: float) -> None:
    pair = PatchPair.around(x, y, scale=(scale, scale), size=256, context_factor=factor)
    high, low = pair.high.region(256, 256), pair.low.region(256, 256)
    assert low.width == pytest.approx(factor * high.width)
    assert low.center == pytest.approx(high.center, abs=1e-6)
    assert high.center == pytest.approx((x, y), abs=1e-6)
