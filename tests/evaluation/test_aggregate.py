"""Estimates and intervals of data sets."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.evaluation import aggregate
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.metrics import Score, score


def squares(found: int, false: int = 0, side: int = 3) -> Score:
    """Four true squares in a row, so many of them found exactly, and so many predicted below."""
    truth, prediction = np.zeros((12, 24), int), np.zeros((12, 24), int)
    for number in range(4):
        place = slice(0, side), slice(6 * number, 6 * number + side)
        truth[place] = number + 1
        prediction[place] = number + 1 if number < found else 0
        prediction[8:10, 6 * number : 6 * number + 2] = number + 5 if number < false else 0
    return score(Labels.of(truth), Labels.of(prediction))


def test_pooled_is_the_ratio_of_sums_and_the_mean_that_of_images():
    scores = [squares(4), squares(0, false=4)]
    weights = aggregate.bootstrap_weights(["a", "b"], 100, 0)
    assert aggregate.pooled(scores, weights)["f1"][0] == pytest.approx(0.5)
    dice = aggregate.mean_over_images([s.ratios() for s in scores], weights)["dice"]
    assert dice[0] == pytest.approx(0.5)
    assert aggregate.pooled(scores, weights)["dice"][0] == pytest.approx(2 * 36 / (72 + 36 + 16))


def test_a_group_is_drawn_as_a_whole():
    weights = aggregate.bootstrap_weights(["a", "b", "a"], 50, 1)
    assert weights[0].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert set((weights[:, 0] + weights[:, 1]).tolist()) == {2}


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    groups = [str(n) for n in range(9)]
    first, same, other = (aggregate.bootstrap_weights(groups, 200, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    random, held, trials = np.random.default_rng(0), 0, 200
    for trial in range(trials):
        values = [{"x": x} for x in random.normal(0.7, 0.1, 40)]
        weights = aggregate.bootstrap_weights([str(n) for n in range(40)], 400, trial)
        found = aggregate.estimates(aggregate.mean_over_images(values, weights), 40)["x"]
        held += found.low <= 0.7 <= found.high
    assert 0.88 <= held / trials <= 0.99


def test_a_constant_difference_is_certain_however_the_images_vary():
    base = np.random.default_rng(0).uniform(0, 0.8, 20)
    weights = aggregate.bootstrap_weights([str(n) for n in range(20)], 300, 0)
    first, second = (aggregate.mean_over_images([{"x": v + d} for v in base], weights) for d in (0, 0.1))
    found = aggregate.differences(first, second, 20)["x"]
    assert found == pytest.approx((0.1, 0.1, 0.1))
    alone = aggregate.estimates(first, 20)["x"]
    assert alone.high - alone.low > 0.1


def test_one_group_has_a_value_and_no_interval():
    weights = aggregate.bootstrap_weights(["a"], 100, 0)
    found = aggregate.estimates(aggregate.pooled([squares(2)], weights), 1)["recall"]
    assert found.value == 0.5
    assert np.isnan([found.low, found.high]).all()


def test_missing_values_are_left_out_of_the_mean():
    weights = aggregate.bootstrap_weights(["a", "b", "c"], 500, 0)
    found = aggregate.estimates(aggregate.mean_over_images([{"x": v} for v in (1.0, np.nan, 3.0)], weights), 3)["x"]
    assert found == pytest.approx((2, 1, 3))


def test_objects_are_counted_in_the_bin_of_their_own_size():
    small, large = squares(2, side=3), squares(4, false=3, side=5)
    weights = aggregate.bootstrap_weights(["a", "b"], 100, 0)
    bins = aggregate.per_size([small, large], np.array([1.0, 1.0]), [9.5], weights)
    assert [b["recall"][0] for b in bins] == [0.5, 1.0]
    assert [b["precision"][0] for b in bins] == [2 / 5, 1.0]


def test_areas_of_bins_are_in_the_unit_of_the_edges():
    weights = aggregate.bootstrap_weights(["a"], 100, 0)
    bins = aggregate.per_size([squares(1)], np.array([0.25]), [2.0, 3.0], weights)
    assert np.isnan(bins[0]["recall"][0])
    assert bins[1]["recall"][0] == 0.25


def test_terciles_divide_the_true_objects():
    scores = [squares(4, side=2), squares(4, side=3), squares(4, side=5)]
    assert aggregate.size_terciles(scores, np.ones(3)) == pytest.approx([22 / 3, 43 / 3])
    assert aggregate.size_terciles([score(*[Labels.of(np.zeros((2, 2), int))] * 2)], np.ones(1)) == []
