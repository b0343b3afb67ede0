"""Measurements mean what QuPath's mean."""

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

from wsi_pipeline.export.measurements import SHAPE_MEASUREMENTS, measure_shapes, minimum_width
from wsi_pipeline.geometry import Resolution

_HALF = Resolution(0.5, 0.5)


def _one(shape, resolution=_HALF):
    return {name: float(values[0]) for name, values in measure_shapes(np.array([shape]), resolution).items()}


def test_a_rectangle():
    assert _one(shapely.box(0, 0, 60, 80)) == pytest.approx(
        {
            "area_um2": 1200,
            "perimeter_um": 140,
            "circularity": 4 * np.pi * 1200 / 140**2,
            "solidity": 1,
            "max_diameter_um": 50,
            "min_diameter_um": 30,
        }
    )


def test_a_hole_counts_in_area_perimeter_and_solidity_but_not_in_circularity():
    ring = shapely.box(0, 0, 40, 40) - shapely.box(10, 10, 30, 30)
    measured = _one(ring, Resolution(1, 1))
    assert measured["area_um2"] == 1200
    assert measured["perimeter_um"] == 240
    assert measured["solidity"] == pytest.approx(1200 / 1600)
    assert measured["circularity"] == pytest.approx(np.pi / 4)


def test_several_parts_have_no_circularity():
    two = shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(6, 0, 8, 2)])
    measured = _one(two, Resolution(1, 1))
    assert np.isnan(measured["circularity"])
    assert (measured["area_um2"], measured["solidity"], measured["min_diameter_um"]) == (8, 0.5, 2)


def test_pixels_need_not_be_square():
    measured = _one(shapely.box(0, 0, 100, 100), Resolution(0.2, 0.5))
    assert (measured["area_um2"], measured["perimeter_um"]) == pytest.approx((1000, 140))
    assert measured["min_diameter_um"] == pytest.approx(20)


def test_empty_and_missing_shapes_measure_nothing():
    measured = measure_shapes(np.array([shapely.Polygon(), None, shapely.box(0, 0, 1, 1)], dtype=object), _HALF)
    for values in measured.values():
        assert np.isnan(values[:2]).all()
        assert np.isfinite(values[2])


def test_no_shapes_at_all():
    measured = measure_shapes(np.array([], dtype=object), _HALF)
    assert set(measured) == set(SHAPE_MEASUREMENTS)
    assert all(len(values) == 0 for values in measured.values())


def _width_by_turning(hull) -> float:
    """Smallest extent over the directions across every edge, one by one."""
    points = shapely.get_coordinates(hull)
    widths = []
    for a, b in itertools.pairwise(points):
        across = np.array([a[1] - b[1], b[0] - a[0]]) / np.hypot(*(b - a))
        reach = points @ across
        widths.append(reach.max() - reach.min())
    return min(widths)


@given(st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=3, max_size=14), max_size=12))
@settings(max_examples=60, deadline=None)
def test_width_of_many_hulls_is_that_of_each(clouds):
    hulls = shapely.convex_hull(np.array([shapely.MultiPoint(cloud) for cloud in clouds], dtype=object))
    expected = [_width_by_turning(hull) if hull.geom_type == "Polygon" else np.nan for hull in hulls]
    assert minimum_width(hulls) == pytest.approx(np.array(expected, float), nan_ok=True)


def test_a_narrow_strip_at_an_angle_far_from_the_origin():
    strip = affinity.rotate(shapely.box(0, 0, 100, 3), 33)
    strip = shapely.transform(strip, lambda xy: xy + 90_000)
    assert minimum_width(np.array([strip]))[0] == pytest.approx(3, abs=1e-6)


def test_large_and_small_hulls_together():
    shapes = np.array(
        [shapely.Point(0, 0).buffer(radius, quad_segs=segs) for radius, segs in ((5, 400), (3, 2), (9, 30))]
    )
    assert minimum_width(shapes) == pytest.approx([10, 6 * np.cos(np.pi / 8), 18], rel=2e-3)


def test_names_carry_the_micro_sign_of_qupath():
    assert all("\u03bc" not in name for name in SHAPE_MEASUREMENTS.values())
    assert SHAPE_MEASUREMENTS["area_um2"] == "Area \u00b5m^2"
