from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.models.coarse_prompts import bounding_boxes, middle_points, prompts_of_masks

MASKS = hnp.arrays(bool, st.tuples(st.just(3), st.integers(1, 24), st.integers(1, 24)))


@given(MASKS, st.integers(1, 5))
def test_points_lie_inside_their_masks_and_differ(masks: np.ndarray, count: int) -> None:
    xy, labels = middle_points(masks, count)
    assert xy.shape == (3, count, 2)
    for mask, points, label in zip(masks, xy, labels, strict=True):
        inside = points[label == 1]
        assert len(inside) == 0 or mask[inside[:, 1].astype(int), inside[:, 0].astype(int)].all()
        assert len(np.unique(inside, axis=0)) == len(inside)
        assert (label == 1).any() == mask.any()


def test_the_first_point_is_the_deepest() -> None:
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 5:8, 5:35] = True
    mask[0, 20:35, 20:35] = True
    mask[0, 7:21, 27] = True
    xy, _ = middle_points(mask, 2)
    np.testing.assert_allclose(xy[0, 0], (27.5, 27.5), atol=1)
    assert xy[0, 1, 1] < 8


@given(MASKS)
def test_boxes_are_tight(masks: np.ndarray) -> None:
    for mask, (x0, y0, x1, y1) in zip(masks, bounding_boxes(masks).astype(int), strict=True):
        if mask.any():
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            assert mask[y0].any()
            assert mask[y1 - 1].any()
            assert mask[:, x0].any()
            assert mask[:, x1 - 1].any()


def test_a_model_is_asked_with_what_it_takes_and_no_more() -> None:
    coarse = np.full((1, 64, 64), -6, np.float32)
    coarse[0, 10:20, 30:50] = 6
    boxes_only = prompts_of_masks(coarse, np.array([0]), frozenset({"box"}), px=4, points=3)
    assert boxes_only.points is None
    assert boxes_only.masks is None
    np.testing.assert_array_equal(boxes_only.boxes, [[120, 40, 200, 80]])
    everything = prompts_of_masks(coarse, np.array([0]), frozenset({"box", "point", "mask"}), px=4, points=2)
    assert everything.points.shape == (1, 2, 2)
    np.testing.assert_array_equal(everything.masks, coarse)
    points_only = prompts_of_masks(coarse, np.array([0]), frozenset({"point"}), px=4, points=0)
    assert points_only.boxes is None
    assert points_only.points.shape == (1, 1, 2)
