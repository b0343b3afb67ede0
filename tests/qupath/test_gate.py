"""The gate lets nothing through that QuPath would refuse."""

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.qupath.gate import GRID, gate, needs_reduction, snap


def _array(geometries) -> np.ndarray:
    array = np.empty(len(geometries), dtype=object)
    array[:] = list(geometries)
    return array


def _traced(mask: np.ndarray) -> shapely.Geometry:
    """The exact area of a mask, by pixel squares."""
    rows, cols = np.nonzero(mask)
    return shapely.union_all(shapely.box(cols, rows, cols + 1, rows + 1))


def _assert_fit(geometries: np.ndarray) -> None:
    assert shapely.is_valid(geometries).all()
    assert (shapely.get_dimensions(geometries) == 2).all()
    coordinates = shapely.get_coordinates(geometries)
    assert np.allclose(coordinates, np.round(coordinates, 2), atol=1e-9)
    assert not snap(geometries)[1].any()


def test_every_shape_of_the_table_comes_out_fit_or_is_dropped(shapes, emptied):
    gated = gate(_array(shapes.values()))
    assert {name for name, gone in zip(shapes, gated.dropped, strict=True) if gone} == emptied
    _assert_fit(gated.geometries[~gated.dropped])


def test_set_precision_refuses_what_the_table_says_qupath_refuses(shapes, refused):
    _, failed = snap(_array(shapes.values()))
    assert {name for name, bad in zip(shapes, failed, strict=True) if bad} == refused


@pytest.mark.parametrize(
    ("name", "area"),
    [("bow-tie", 50), ("overlapping parts", 175), ("spike", 100), ("pinch", 200), ("hole on the edge", 85),
     ("hole in a hole", 3600), ("traced twice", 100), ("parts sharing an edge", 200), ("hole touching in a point", 94)],
)  # fmt: skip
def test_repair_keeps_the_area_that_was_meant(shapes, name, area):
    gated = gate(_array([shapes[name]]))
    assert gated.geometries[0].area == pytest.approx(area)


def test_counts_tell_repaired_from_untouched(shapes):
    gated = gate(_array([shapes["square"], shapes["bow-tie"], shapes["on one line"], None, shapely.Point(1, 1)]))
    assert gated.repaired.tolist() == [False, True, False, False, False]
    assert gated.dropped.tolist() == [False, False, True, True, True]


def test_one_bad_polygon_does_not_touch_the_others():
    good = shapely.buffer(shapely.points(np.random.default_rng(0).random((50, 2)) * 1000), 7)
    with_bad = np.insert(good, 20, shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]))
    assert shapely.equals_identical(gate(good).geometries, np.delete(gate(with_bad).geometries, 20)).all()


def test_nan_coordinates_are_dropped():
    with np.errstate(invalid="ignore"):
        bad = shapely.Polygon([(0, 0), (float("nan"), 5), (5, 5), (0, 0)])
    assert gate(_array([bad, shapely.box(0, 0, 1, 1)])).dropped.tolist() == [True, False]


def test_min_area_drops_smaller_ones():
    assert gate(_array([shapely.box(0, 0, 2, 2), shapely.box(0, 0, 3, 3)]), min_area=5).dropped.tolist() == [
        True,
        False,
    ]


def test_no_polygons_at_all():
    gated = gate(np.array([], dtype=object))
    assert len(gated.geometries) == len(gated.repaired) == len(gated.dropped) == 0


def test_ring_mask_keeps_its_hole():
    mask = np.ones((40, 40), bool)
    mask[10:30, 10:30] = False
    gated = gate(_array([_traced(mask)]))
    assert shapely.get_num_interior_rings(gated.geometries[0]) == 1
    assert gated.geometries[0].area == mask.sum() == 1200
    assert not gated.repaired[0]


@pytest.mark.parametrize("scale", [1, 4, 1 / 3, 3.9998])
@pytest.mark.parametrize("name", ["pinch", "island in a hole", "single pixel", "one-pixel line", "all borders"])
def test_difficult_masks_pass_unrepaired(name, scale):
    mask = np.zeros((9, 9), bool)
    if name == "pinch":
        mask[1:4, 1:4] = mask[4:7, 4:7] = True
    elif name == "island in a hole":
        mask[1:8, 1:8], mask[2:7, 2:7], mask[4, 4] = True, False, True
    elif name == "single pixel":
        mask[4, 4] = True
    elif name == "one-pixel line":
        mask[4, 1:8] = True
    else:
        mask[:, 4] = mask[4, :] = True
    shape = shapely.transform(_traced(mask), lambda xy: xy * scale + 100_000.37)
    gated = gate(_array([shape]))
    assert not gated.dropped[0]
    assert not gated.repaired[0]
    assert gated.geometries[0].area == pytest.approx(mask.sum() * scale**2, abs=GRID * shape.length)


_MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@given(_MASKS, st.floats(0.3, 5), st.floats(-1e5, 1e5))
@example(np.ones((1, 1), bool), 1.0, 0.125)  # halfway between two steps
@example(np.ones((1, 1), bool), 1.0, -3.125)
@settings(max_examples=60, deadline=None)
def test_any_traced_mask_needs_no_repair(mask, scale, shift):
    if not mask.any():
        return
    shape = _array([shapely.transform(_traced(mask), lambda xy: xy * scale + shift)])
    gated = gate(shape)
    assert not gated.dropped[0]
    assert not gated.repaired[0]
    _assert_fit(gated.geometries)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_scribble_comes_out_fit_or_is_dropped(points):
    gated = gate(_array([shapely.Polygon(points)]))
    assert gated.dropped[0] or gated.geometries[0].area > 0
    _assert_fit(gated.geometries[~gated.dropped])


@given(_MASKS, st.floats(0.3, 5), st.floats(-1e5, 1e5))
@example(np.ones((1, 1), bool), 1.0, 0.125)  # halfway between two steps
@example(np.ones((1, 1), bool), 1.0, -3.125)
@settings(max_examples=60, deadline=None)
def test_the_short_cut_gives_what_the_full_reduction_gives(mask, scale, shift):
    if not mask.any():
        return
    shape = _array([shapely.transform(_traced(mask), lambda xy: xy * scale + shift)])
    assert not needs_reduction(shape)[0]
    assert shapely.equals(gate(shape).geometries, shapely.set_precision(shape, GRID)).all()


def test_jts_agrees_with_shapely_on_every_shape_of_the_table(jts, shapes, refused):
    answers = dict(zip(shapes, jts(_array(shapes.values())), strict=True))
    assert {name for name, answer in answers.items() if answer == "throws"} == refused


def test_jts_takes_everything_that_passed_the_gate(jts, shapes):
    rng = np.random.default_rng(1)
    scribbles = [shapely.Polygon(rng.random((n, 2)) * 60) for n in rng.integers(3, 25, 400)]
    masks = [_traced(rng.random((8, 8)) < 0.6) for _ in range(200)]
    moved = [shapely.transform(mask, lambda xy: xy * 3.9998 + 100_000.37) for mask in masks]
    cells = list(shapely.buffer(shapely.points(rng.random((200, 2)) * 1e5), 7.3))
    gated = gate(_array([*shapes.values(), *scribbles, *masks, *moved, *cells]))
    passed = gated.geometries[~gated.dropped]
    answers = [answer.split() for answer in jts(passed)]
    assert all(answer[0] == "ok" and answer[2] == "true" for answer in answers)
    change = np.abs([float(answer[1]) for answer in answers] - shapely.area(passed))
    assert (change <= GRID * shapely.length(passed)).all()
    assert len(passed) > 900
