"""Painting: the better object is seen, merged objects have one id and one class, and no shard differs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.stitching.crop import crop_mask
from wsi_pipeline.stitching.paint import paint


def undisputed(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Roots and classes of n objects that all stay, of class 1."""
    return np.arange(n + 1, dtype=np.uint32), np.array([0] + [1] * n, np.int16)


def ids(*values):
    return np.array(values, np.int64)


def full(height, width):
    return np.ones((height, width), bool)


def test_higher_score_is_seen_where_objects_overlap(bench):
    batch = bench.make_batch([bench.seen(0, 0, full(4, 4), iou=0.9), bench.seen(2, 0, full(4, 4), iou=0.8)])
    instance, _ = paint((0, 0, 6, 4), [batch], [ids(1, 2)], *undisputed(2))
    assert instance[0].tolist() == [1, 1, 1, 1, 2, 2]


def test_lower_id_is_seen_where_scores_are_equal_in_any_order_of_batches(bench):
    one = bench.make_batch([bench.seen(0, 0, full(4, 4), iou=0.9)])
    two = bench.make_batch([bench.seen(2, 0, full(4, 4), iou=0.9)])
    for batches, numbers in (([one, two], [ids(1), ids(2)]), ([two, one], [ids(2), ids(1)])):
        instance, _ = paint((0, 0, 6, 4), batches, numbers, *undisputed(2))
        assert instance[0].tolist() == [1, 1, 1, 1, 2, 2]


def test_object_without_a_score_is_seen_last(bench):
    batch = bench.make_batch([bench.seen(0, 0, full(1, 3), iou=float("nan")), bench.seen(2, 0, full(1, 3), iou=0.0)])
    instance, _ = paint((0, 0, 5, 1), [batch], [ids(1, 2)], *undisputed(2))
    assert instance.tolist() == [[1, 1, 2, 2, 2]]


def test_dropped_objects_leave_no_trace(bench):
    batch = bench.make_batch([bench.seen(0, 0, full(2, 2)), bench.seen(1, 0, full(2, 2))])
    root, class_ids = np.array([0, 0, 2], np.uint32), np.array([0, 5, 6], np.int16)
    instance, class_ = paint((0, 0, 3, 2), [batch], [ids(1, 2)], root, class_ids)
    assert instance[0].tolist() == [0, 2, 2]
    assert class_[0].tolist() == [0, 6, 6]


def test_merged_objects_have_the_class_of_a_root_that_is_far_away(bench):
    """Object 3's batch is the only one at hand; its root is object 1 of another one."""
    batch = bench.make_batch([bench.seen(0, 0, full(2, 2), class_id=2)])
    root, class_ids = np.array([0, 1, 2, 1], np.uint32), np.array([0, 7, 8, 2], np.int16)
    instance, class_ = paint((0, 0, 2, 2), [batch], [ids(3)], root, class_ids)
    assert (instance == 1).all()
    assert (class_ == 7).all()


def test_rectangle_without_batches_is_empty():
    instance, class_ = paint((5, 5, 9, 8), [], [], *undisputed(0))
    assert instance.shape == class_.shape == (3, 4)
    assert instance.dtype == np.uint32
    assert class_.dtype == np.uint16
    assert not instance.any()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_crop_of_a_packed_mask_is_that_part_of_the_mask(bench, data):
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    masks = [rng.random(shape) < 0.5 for shape in shapes]
    batch = bench.make_batch([bench.seen(-3, 11, mask) for mask in masks])
    i = data.draw(st.integers(0, len(masks) - 1))
    height, width = shapes[i]
    x0, y0 = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    x1, y1 = data.draw(st.integers(x0, width)), data.draw(st.integers(y0, height))
    crop = crop_mask(batch, i, x0 - 3, y0 + 11, x1 - 3, y1 + 11)
    assert crop.dtype == bool
    np.testing.assert_array_equal(crop, masks[i][y0:y1, x0:x1])
