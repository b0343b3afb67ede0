from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.vectorize import raster
from wsi_pipeline.vectorize.raster import rasterize


@given(st.integers(0), st.integers(3, 12))
@settings(max_examples=60, deadline=None)
def test_pixels_are_those_whose_centre_is_inside(seed, corners):
    rng = np.random.default_rng(seed)
    polygon = shapely.make_valid(shapely.Polygon(rng.uniform(-10, 40, (corners, 2))))
    x, y = np.meshgrid(np.arange(30) + 0.5, np.arange(25) + 0.5)
    assert np.array_equal(rasterize([polygon], [True], (25, 30)), shapely.contains_xy(polygon, x, y))


def test_polygons_sharing_a_border_through_centres_share_no_pixel():
    left, right = shapely.box(0, 0, 2.5, 4.5), shapely.box(2.5, 0, 6, 4.5)
    image = rasterize([left, right], np.array([1, 2], np.uint8), (6, 6))
    assert np.array_equal(image[0], [1, 1, 2, 2, 2, 2])
    assert (rasterize([left], [True], (6, 6)).sum() + rasterize([right], [True], (6, 6)).sum()) == (image > 0).sum()


def test_later_polygons_cover_earlier_ones_across_blocks(monkeypatch):
    monkeypatch.setattr(raster, "_BLOCK", 7)
    image = rasterize([shapely.box(0, 0, 9, 9), shapely.box(3, 3, 6, 20)], np.array([1, 2], np.uint16), (9, 9))
    assert image.dtype == np.uint16
    assert (image[3:, 3:6] == 2).all()
    assert (image == 1).sum() == 81 - 18


def test_polygons_outside_and_other_geometries_paint_nothing():
    shapes = [shapely.box(20, 20, 30, 30), shapely.LineString([(0, 0), (5, 5)]), shapely.Polygon()]
    assert not rasterize(shapes, [1, 2, 3], (8, 8)).any()


def test_multipolygon_with_a_hole():
    ring = shapely.box(0, 0, 6, 6) - shapely.box(2, 2, 4, 4)
    image = rasterize([shapely.MultiPolygon([ring, shapely.box(7, 0, 8, 1)])], [True], (6, 8))
    assert image.sum() == 36 - 4 + 1
    assert not image[2:4, 2:4].any()
