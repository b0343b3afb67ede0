from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.vectorize import simplify
from wsi_pipeline.vectorize.arrays import polygons_from_labels, vectorize_array

IMAGES = st.tuples(
    st.integers(1, 45), st.integers(1, 45), st.integers(1, 6), st.sampled_from([0.0, 0.6, 1.0, 2.5]), st.integers(0)
)
TOLERANCES = st.sampled_from([0.5, 0.8, 1.0, 1.5, 3.0, 20.0])
CELLS = st.sampled_from([1, 5, 8, 21, 256])


def simplified(labels: np.ndarray, tolerance: float, cell: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simplify, "CELL", cell)
        return vectorize_array(labels, tolerance=tolerance)


def disk(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.hypot(x, y) < size / 2 - 1


@given(IMAGES, TOLERANCES, CELLS)
@settings(max_examples=60, deadline=None)
def test_simplified_polygons_are_valid_and_do_not_overlap(random_labels, spec, tolerance, cell):
    labels = random_labels(*spec)
    found = simplified(labels, tolerance, cell)
    assert shapely.is_valid(found.geometry).all()
    total = shapely.area(found.geometry).sum()
    assert shapely.union_all(found.geometry).area == pytest.approx(total, abs=1e-6)


@given(IMAGES, TOLERANCES, CELLS)
@settings(max_examples=40, deadline=None)
def test_partition_stays_a_partition(random_labels, spec, tolerance, cell):
    labels = random_labels(*spec) + 1  # no background: every border is shared
    found = simplified(labels, tolerance, cell)
    union = shapely.union_all(found.geometry)
    assert union.area == pytest.approx(shapely.area(found.geometry).sum(), abs=1e-6)
    assert union.geom_type == "Polygon"
    assert not union.interiors, "no gaps"
    frame = shapely.box(0, 0, labels.shape[1], labels.shape[0])
    assert shapely.hausdorff_distance(union.exterior, frame.exterior, densify=0.25) <= tolerance + 1e-9


@given(IMAGES, TOLERANCES, CELLS)
@settings(max_examples=40, deadline=None)
def test_deviation_is_within_the_tolerance(random_labels, spec, tolerance, cell):
    labels = random_labels(*spec)
    ids, exact = polygons_from_labels(labels)
    found = simplified(labels, tolerance, cell)
    assert np.array_equal(found.label, ids), "nothing vanishes"
    assert (shapely.get_num_geometries(found.geometry) == shapely.get_num_geometries(exact)).all()
    before, after = shapely.boundary(exact), shapely.boundary(found.geometry)
    assert (shapely.hausdorff_distance(before, after, densify=0.25) <= tolerance + 1e-9).all()


@given(IMAGES, TOLERANCES, CELLS, st.integers(6, 50))
@settings(max_examples=40, deadline=None)
def test_chunk_size_changes_nothing_in_simplified_outlines(random_labels, in_chunks, spec, tolerance, cell, size):
    labels = random_labels(*spec)
    whole = simplified(labels, tolerance, cell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simplify, "CELL", cell)
        parts = in_chunks(labels, size, tolerance=tolerance)
    found = {int(n): g.wkb for part in parts for n, g in zip(part.label, part.geometry, strict=True)}
    assert found == {int(n): g.wkb for n, g in zip(whole.label, whole.geometry, strict=True)}


def test_disk_loses_most_of_its_corners():
    labels = disk(200).astype(np.uint8)
    _, (exact,) = polygons_from_labels(labels)
    found = vectorize_array(labels, tolerance=1.0).geometry[0]
    assert shapely.get_num_coordinates(found) < 0.15 * shapely.get_num_coordinates(exact)
    assert found.area == pytest.approx(exact.area, rel=0.01)


def test_straight_edges_on_cell_lines_gain_no_corners():
    labels = np.ones((3 * simplify.CELL, 2 * simplify.CELL), np.uint8)
    assert shapely.get_num_coordinates(vectorize_array(labels, tolerance=1.0).geometry[0]) == 5


def test_neighbours_keep_one_border():
    labels = disk(80).astype(np.uint8)
    labels[:, 40:] *= 2
    left, right = vectorize_array(labels, tolerance=2.0).geometry
    assert left.touches(right)
    assert (left | right).area == pytest.approx(left.area + right.area)


def test_thin_gap_between_objects_stays_open():
    x, y = np.meshgrid(np.arange(60), np.arange(60))
    labels = np.where(y < x // 3 + 10, 1, np.where(y > x // 3 + 10, 2, 0))
    one, two = vectorize_array(labels, tolerance=3.0).geometry
    assert not one.overlaps(two)
    assert one.is_valid
    assert two.is_valid


def test_island_stays_inside_its_hole():
    labels = disk(60).astype(np.uint8)
    labels[25:35, 25:35] = 0
    labels[26:34, 26:34] = 3
    ring, island = vectorize_array(labels, tolerance=4.0).geometry
    assert len(ring.interiors) == 1
    assert shapely.Polygon(ring.interiors[0]).contains(island)
