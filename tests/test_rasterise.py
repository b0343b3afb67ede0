from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.rasterise import coverage, rasterise

RING = shapely.Polygon(
    [(2, 1.2), (17.3, 3), (14, 16.1), (4.4, 13)], [[(6, 6.3), (11.2, 6), (9, 10.7)], [(12, 11), (13, 11), (12.5, 12.2)]]
)


def centres_inside(geometry, to_raster: Affine2D, width: int, height: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = to_raster.inverse().apply(np.stack([x, y], axis=-1))
    return shapely.contains_xy(geometry, points[..., 0], points[..., 1])


@settings(deadline=None, max_examples=50)
@given(st.floats(0.3, 5), st.floats(0.3, 5), st.floats(-20, 20), st.floats(-20, 20))
def test_a_pixel_is_inside_when_its_centre_is(sx: float, sy: float, tx: float, ty: float) -> None:
    # offsets that put no centre on an edge, where either answer would be right
    to_raster = Affine2D(sx, sy, tx + np.pi * 1e-4, ty + np.e * 1e-4)
    for geometry in (RING, shapely.MultiPolygon([RING, shapely.box(18, 0, 19, 9)])):
        expected = centres_inside(geometry, to_raster, 40, 30)
        np.testing.assert_array_equal(rasterise(geometry, to_raster, 40, 30), expected)


def test_an_outline_on_pixel_edges_gives_its_pixels_and_holes_back() -> None:
    mask = np.random.default_rng(1).random((12, 15)) < 0.6
    squares = [shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask)]
    np.testing.assert_array_equal(rasterise(shapely.union_all(squares), Affine2D(), 15, 12), mask)


def test_points_lines_and_what_lies_beyond_the_raster_leave_nothing() -> None:
    flat = shapely.GeometryCollection([shapely.Point(3, 3), shapely.LineString([(0, 0), (9, 9)])])
    assert not rasterise(flat, Affine2D(), 10, 10).any()
    for box in (shapely.box(-9, -9, -1, 20), shapely.box(11, 1, 15, 8), shapely.box(1, 30, 8, 40)):
        assert not rasterise(box, Affine2D(), 10, 10).any()


def test_polygons_of_a_collection_in_a_collection_count() -> None:
    nested = shapely.GeometryCollection(
        [shapely.Point(1, 1), shapely.GeometryCollection([shapely.MultiPolygon([shapely.box(2, 2, 4, 5)])])]
    )
    assert rasterise(nested, Affine2D(), 8, 8).sum() == 6


def test_a_bow_tie_is_filled_on_both_sides() -> None:
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    filled = rasterise(bow_tie, Affine2D(), 10, 10)
    assert filled[5, 1]
    assert filled[5, 8]
    assert not filled[1, 5]


def test_coverage_is_the_share_of_each_pixel() -> None:
    covered = coverage(shapely.box(1.5, 2.25, 4, 4), Affine2D(), 8)
    np.testing.assert_allclose(covered[2, 1:5], [0.375, 0.75, 0.75, 0])
    np.testing.assert_allclose(covered[3, 1:5], [0.5, 1, 1, 0])
    assert covered.sum() == np.float32(2.5 * 1.75)
