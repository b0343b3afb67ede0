"""Blending: a weighted mean of logits, the same whatever is computed together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.segment.objects import LOGIT_STEPS, quantise_logits
from wsi_pipeline.stitching.blend import blend


def sigmoid_255(logit):
    return np.rint(255 / (1 + np.exp(-np.asarray(logit, np.float64)))).astype(np.uint8)


def test_area_of_one_tile_has_that_tiles_probability(bench):
    steps = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    batch = bench.make_batch([], [(3, 5, steps)])
    np.testing.assert_array_equal(blend((3, 5, 19, 21), [batch], 4), sigmoid_255(steps / LOGIT_STEPS))


def test_nothing_was_looked_at_where_there_is_no_tile(bench):
    batch = bench.make_batch([], [(0, 0, np.full((8, 8), 127, np.int8))])
    result = blend((-2, 0, 12, 8), [batch], 2)
    assert not result[:, :2].any()
    assert (result[:, 2:10] == 255).all()
    assert not result[:, 10:].any()
    assert not blend((0, 0, 4, 4), [], 2).any()


def test_weights_change_linearly_over_the_overlap(bench):
    """Logits +4 and -4 over an overlap of 4 px: the mean goes 3, 1, -1, -3."""
    left, right = np.full((8, 8), 4 * 16, np.int8), np.full((8, 8), -4 * 16, np.int8)
    batch = bench.make_batch([], [(0, 0, left), (4, 0, right)])
    expected = sigmoid_255([4, 4, 4, 4, 3, 1, -1, -3, -4, -4, -4, -4])
    np.testing.assert_array_equal(blend((0, 0, 12, 8), [batch], 4)[4], expected)


def test_tiles_without_overlap_stand_side_by_side(bench):
    batch = bench.make_batch([], [(0, 0, np.full((4, 4), 32, np.int8)), (4, 0, np.full((4, 4), -32, np.int8))])
    np.testing.assert_array_equal(blend((0, 0, 8, 1), [batch], 0)[0], sigmoid_255([2] * 4 + [-2] * 4))


@pytest.fixture(scope="module")
def scene(bench):
    """A kept-in-part plan of 24-px tiles with random logits, grouped by two block sides."""
    rng = np.random.default_rng(1)
    keep = rng.random((5, 6)) < 0.8
    logits = {}
    by_block = []
    for block in (1, 3):
        plan = bench.make_plan(100, 84, size=24, overlap=8, block=block, keep=keep)
        batches = []
        for number in range(plan.n_batches):
            tiles = plan.batch(number)
            for t in tiles:
                logits.setdefault(t.index, quantise_logits(rng.normal(0, 3, (24, 24))))
            batches.append(bench.make_batch([], [(t.x, t.y, logits[t.index]) for t in tiles]))
        by_block.append(batches)
    return by_block


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1), st.randoms())
def test_every_pixel_is_the_same_for_any_rectangle_block_and_order(scene, width, height, which, random):
    whole = blend((0, 0, 100, 84), scene[0], 8)
    batches = list(scene[which])
    random.shuffle(batches)
    x, y = random.randrange(100 - width), random.randrange(84 - height)
    part = blend((x, y, x + width, y + height), batches, 8)
    np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])


def test_blend_is_the_sigmoid_of_the_weighted_mean_logit(scene):
    total, weight = np.zeros((84, 100)), np.zeros((84, 100))
    ramp = np.minimum(np.minimum(np.arange(24) + 0.5, 24 - np.arange(24) - 0.5), 8) / 8
    for batch in scene[0]:
        for logits, (x, y) in zip(batch.logits, batch.logits_xy, strict=True):
            for dy in range(24):
                for dx in range(24):
                    if 0 <= x + dx < 100 and 0 <= y + dy < 84:
                        total[y + dy, x + dx] += ramp[dy] * ramp[dx] * logits[dy, dx] / LOGIT_STEPS
                        weight[y + dy, x + dx] += ramp[dy] * ramp[dx]
    exact = np.where(weight > 0, 255 / (1 + np.exp(-total / np.maximum(weight, 1e-9))), 0)
    assert (weight == 0).any()
    assert np.abs(blend((0, 0, 100, 84), scene[0], 8) - exact).max() < 0.54
