from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.vectorize.arrays import polygons_from_labels, polygons_from_mask, vectorize_array

IMAGES = st.tuples(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 6), st.sampled_from([0.0, 0.6, 1.0, 2.5]), st.integers(0)
)


def image(*rows: str) -> np.ndarray:
    """Digits are labels, dots are background."""
    return np.array([[int(c.replace(".", "0")) for c in row] for row in rows], np.uint8)


@given(IMAGES)
@settings(max_examples=60, deadline=None)
def test_rasterised_polygons_are_the_same_pixels(random_labels, rasterised, spec):
    labels = random_labels(*spec)
    ids, polygons = polygons_from_labels(labels)
    assert np.array_equal(rasterised(polygons, ids, labels.shape), labels)


@given(IMAGES)
@settings(max_examples=60, deadline=None)
def test_polygons_are_valid_and_as_large_as_their_pixels(random_labels, spec):
    labels = random_labels(*spec)
    ids, polygons = polygons_from_labels(labels)
    present, count = np.unique(labels[labels > 0], return_counts=True)
    assert np.array_equal(ids, present)
    assert shapely.is_valid(polygons).all()
    assert np.array_equal(shapely.area(polygons), count)


@given(IMAGES)
@settings(max_examples=30, deadline=None)
def test_rings_start_at_their_smallest_corner_and_have_no_straight_corners(random_labels, spec):
    _, polygons = polygons_from_labels(random_labels(*spec))
    for ring in shapely.get_rings(shapely.get_parts(polygons)):
        xy = shapely.get_coordinates(ring)[:-1]
        assert min(range(len(xy)), key=lambda i: (xy[i, 1], xy[i, 0])) == 0
        step = np.roll(xy, -1, axis=0) - xy
        assert (np.abs(step) > 0).sum(axis=1).max() == 1, "sides run along pixel edges"
        assert ((step != 0) != (np.roll(step, -1, axis=0) != 0)).all(), "every corner is a corner"


@given(IMAGES)
@settings(max_examples=30, deadline=None)
def test_outer_rings_run_counter_clockwise_and_holes_clockwise(random_labels, spec):
    _, polygons = polygons_from_labels(random_labels(*spec))
    parts = shapely.get_parts(polygons)
    assert shapely.is_ccw(shapely.get_exterior_ring(parts)).all()
    holes = [hole for part in parts for hole in part.interiors]
    assert not shapely.is_ccw(holes).any()


def test_ring_mask_is_one_polygon_with_one_hole():
    mask = np.zeros((50, 50), bool)
    mask[5:45, 5:45] = True
    mask[15:35, 15:35] = False
    polygon = polygons_from_mask(mask, Affine2D())
    assert polygon.geom_type == "Polygon"
    assert (polygon.area, len(polygon.interiors)) == (1200, 1)


def test_island_in_a_hole_is_a_part_of_its_own():
    labels = image(".......", ".11111.", ".1...1.", ".1.1.1.", ".1...1.", ".11111.", ".......")
    _, (polygon,) = polygons_from_labels(labels)
    assert shapely.get_num_geometries(polygon) == 2
    assert sorted(len(part.interiors) for part in polygon.geoms) == [0, 1]
    assert polygon.area == 17


def test_hole_filled_by_another_label_fits_exactly():
    ids, polygons = polygons_from_labels(image("111", "121", "111"))
    assert list(ids) == [1, 2]
    assert polygons[0].interiors[0].equals(polygons[1].exterior)


def test_pixels_that_touch_diagonally_are_two_parts():
    _, (polygon,) = polygons_from_labels(image("1.", ".1"))
    assert [part.area for part in polygon.geoms] == [1, 1]
    assert polygon.is_valid


def test_object_that_meets_itself_at_a_corner_encloses_a_hole():
    labels = image("111.", "1.1.", "11.1", ".111")
    _, (polygon,) = polygons_from_labels(labels)
    assert polygon.is_valid
    assert polygon.area == labels.sum()


def test_hole_touching_the_outer_ring_at_a_corner_is_still_a_hole():
    _, (polygon,) = polygons_from_labels(image("1111", "1.11", "11.1", "1111"))
    assert polygon.geom_type == "Polygon"
    assert sorted(shapely.Polygon(hole).area for hole in polygon.interiors) == [1, 1]
    _, (polygon,) = polygons_from_labels(image("111", "1.1", "11."))
    assert len(polygon.interiors) == 1
    assert polygon.is_valid


def test_single_pixel_and_thin_line():
    _, polygons = polygons_from_labels(image("2....", ".....", "33333"))
    assert polygons[0].equals(shapely.box(0, 0, 1, 1))
    assert polygons[1].equals(shapely.box(0, 2, 5, 3))
    assert shapely.get_num_coordinates(polygons).tolist() == [5, 5]


def test_object_touching_all_borders_has_four_corners():
    _, (polygon,) = polygons_from_labels(np.full((7, 11), 9, np.int64))
    assert polygon.equals(shapely.box(0, 0, 11, 7))
    assert shapely.get_num_coordinates(polygon) == 5


def test_mask_outline_is_in_level0_pixels():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    polygon = polygons_from_mask(mask, Affine2D(4.0, 3.9998, 100.25, 7.0))
    assert polygon.bounds == (108.25, 7.0 + 3.9998, 120.25, 7.0 + 3 * 3.9998)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 3)])
def test_nothing_gives_an_empty_polygon(shape):
    assert polygons_from_mask(np.zeros(shape, bool), Affine2D()).is_empty
    ids, polygons = polygons_from_labels(np.zeros(shape, np.uint32))
    assert len(ids) == len(polygons) == 0


@pytest.mark.parametrize("labels", [np.array([[-1, 0]]), np.array([[0.5, 1.0]])])
def test_labels_that_are_no_labels_are_refused(labels):
    with pytest.raises(ValueError, match="integers from 0"):
        polygons_from_labels(labels)


def test_small_holes_are_filled_and_small_objects_dropped():
    labels = image("1111111", "1.1..11", "1111111", ".......", "22.....")
    found = vectorize_array(labels, fill_holes=2)
    assert [len(p.interiors) for p in found.geometry] == [1, 0]
    found = vectorize_array(labels, min_area=3)
    assert found.label.tolist() == [1]
    assert found.geometry[0].area == 18


def test_area_of_an_instance_is_the_sum_of_its_parts():
    labels = image("11.11", ".....", "2....")
    assert vectorize_array(labels, min_area=3).label.tolist() == [1]
    assert len(vectorize_array(labels, "component", min_area=3)) == 0


def test_large_labels_keep_their_value():
    labels = np.array([[0, 2**32 - 1], [2**31, 0]], np.uint32)
    ids, _ = polygons_from_labels(labels)
    assert ids.tolist() == [2**31, 2**32 - 1]
