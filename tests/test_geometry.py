"""One coordinate story: level-0 px, integers at pixel corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D, PixelGrid, Region, Resolution

NUMBER = st.floats(-1e5, 1e5)
SIZE = st.floats(0.01, 1e5)
SCALE = st.floats(0.01, 64)
AFFINES = st.builds(Affine2D, SCALE, SCALE, NUMBER, NUMBER)
REGIONS = st.builds(Region, NUMBER, NUMBER, SIZE, SIZE)
POINTS = st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=5).map(np.array)


@given(AFFINES, POINTS)
def test_inverse_leads_back(affine: Affine2D, points: np.ndarray) -> None:
    back = affine.inverse().apply(affine.apply(points))
    np.testing.assert_allclose(back, points, atol=1e-6 / affine.sx + 1e-6 / affine.sy)


@given(AFFINES, AFFINES, POINTS)
def test_one_affine_after_another_is_both(second: Affine2D, first: Affine2D, points: np.ndarray) -> None:
    np.testing.assert_allclose(
        second.after(first).apply(points), second.apply(first.apply(points)), rtol=1e-9, atol=1e-3
    )


@given(AFFINES, NUMBER, NUMBER)
def test_crop_begins_at_its_pixel(affine: Affine2D, x: float, y: float) -> None:
    np.testing.assert_allclose(affine.shifted(x, y).apply(np.zeros(2)), affine.apply(np.array([x, y])))


@given(AFFINES, POINTS)
def test_shapely_moves_points_the_same_way(affine: Affine2D, points: np.ndarray) -> None:
    from shapely.affinity import affine_transform

    moved = shapely.get_coordinates(affine_transform(shapely.MultiPoint(points), affine.shapely()))
    np.testing.assert_allclose(moved, affine.apply(points))


@given(REGIONS, REGIONS)
def test_intersection_is_that_of_the_rectangles(one: Region, other: Region) -> None:
    common = one.intersection(other)
    assert common == other.intersection(one)
    expected = shapely.box(*one.bounds).intersection(shapely.box(*other.bounds)).area
    assert common.width * common.height == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert common.is_empty == (common.width <= 0 or common.height <= 0)


@given(REGIONS, st.floats(0, 100))
def test_expanding_keeps_the_centre(region: Region, margin: float) -> None:
    grown = region.expanded(margin)
    assert grown.center == pytest.approx(region.center, abs=1e-6)
    assert grown.width == pytest.approx(region.width + 2 * margin)


@given(REGIONS)
def test_bounds_make_the_same_region(region: Region) -> None:
    again = Region.from_bounds(*region.bounds)
    assert again.bounds == pytest.approx(region.bounds, abs=1e-6)


@given(
    st.builds(Region, NUMBER, NUMBER, st.floats(1, 1e5), st.floats(1, 1e5)),
    st.builds(Resolution, st.floats(0.05, 20), st.floats(0.05, 20)),
    st.floats(0.05, 20),
)
def test_grid_covers_its_region_with_less_than_a_pixel_more(region: Region, resolution: Resolution, mpp: float) -> None:
    grid = PixelGrid.over(region, resolution, mpp)
    sx, sy = mpp / resolution.x, mpp / resolution.y
    assert (grid.region.x, grid.region.y) == (region.x, region.y)
    assert -1e-5 * sx <= grid.region.width - region.width or grid.width == 1
    assert grid.region.width - region.width < sx * (1 + 1e-6)
    assert grid.region.height - region.height < sy * (1 + 1e-6)


@given(AFFINES, st.integers(0, 100), st.integers(0, 100))
def test_crop_of_a_grid_lies_where_the_pixels_were(affine: Affine2D, x: int, y: int) -> None:
    part = PixelGrid(200, 200, affine, 0.5).crop(x, y, 10, 20)
    corner = affine.apply(np.array([[x, y], [x + 10, y + 20]])).ravel()
    assert part.region.bounds == pytest.approx(tuple(corner), rel=1e-9, abs=1e-6)
    assert (part.width, part.height, part.mpp) == (10, 20, 0.5)


def test_mean_resolution_is_the_side_of_a_square_of_the_same_area() -> None:
    assert Resolution(0.25, 1.0).mean == 0.5
    assert math.isclose(Resolution(0.5, 0.5).mean, 0.5)
