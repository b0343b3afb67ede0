"""Metrics against the definitions, written out object by object."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from wsi_pipeline.evaluation.distances import hd95
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.metrics import Counts, ratios, score
from wsi_pipeline.training.boundary import boundary_iou

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
PAIRS = SIDES.flatmap(lambda shape: st.tuples(*[arrays.arrays(np.uint16, shape, elements=st.integers(0, 4))] * 2))


def compare(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    return score(Labels.of(truth), Labels.of(prediction)).ratios()


def objects(image: np.ndarray) -> list[np.ndarray]:
    """Masks in the order of their first px."""
    values = [v for v in dict.fromkeys(image.ravel().tolist()) if v]
    return [image == v for v in values]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@given(PAIRS)
def test_dice_and_iou_are_those_of_the_masks(pair):
    a, b = pair[0] > 0, pair[1] > 0
    found = compare(*pair)
    if a.any() or b.any():
        assert found["iou"] == pytest.approx(iou(a, b))
        assert found["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


@given(PAIRS)
def test_objects_are_matched_above_half_and_pq_is_sq_times_dq(pair):
    truth, predicted = map(objects, pair)
    matched = [value for a in truth for b in predicted if (value := iou(a, b)) > 0.5]
    found = compare(*pair)
    if truth or predicted:
        n, misses, false = len(matched), len(truth) - len(matched), len(predicted) - len(matched)
        assert found["f1"] == pytest.approx(n / (n + misses / 2 + false / 2))
        assert found["recall"] == pytest.approx(n / len(truth) if truth else 0)
        assert found["precision"] == pytest.approx(n / len(predicted) if predicted else 0)
        assert found["sq"] == pytest.approx(np.mean(matched) if matched else 0)
        assert found["pq"] == pytest.approx(found["sq"] * found["f1"])


@given(PAIRS)
def test_aji_is_algorithm_1_of_kumar(pair):
    truth, predicted = map(objects, pair)
    common, union, used = 0, 0, set()
    for a in truth:
        # the order of preference among equals is ours: more px in common, then the later one
        best = max(
            range(len(predicted)), key=lambda j: (iou(a, predicted[j]), (a & predicted[j]).sum(), j), default=None
        )
        if best is None or not (a & predicted[best]).any():
            union += a.sum()
            continue
        common, union = common + (a & predicted[best]).sum(), union + (a | predicted[best]).sum()
        used.add(best)
    union += sum(b.sum() for j, b in enumerate(predicted) if j not in used)
    if union:
        assert compare(*pair)["aji"] == pytest.approx(common / union)


@given(PAIRS)
def test_aji_plus_is_that_of_a_best_one_to_one_matching(pair):
    truth, predicted = map(objects, pair)
    padded = [*predicted, *[np.zeros(pair[0].shape, bool)] * len(truth)]
    best, possible = -1.0, set()
    for chosen in itertools.permutations(range(len(padded)), len(truth)):
        paired = [(a, padded[j]) for a, j in zip(truth, chosen, strict=True)]
        total = sum(iou(a, b) for a, b in paired)
        if total > best + 1e-9:
            best, possible = total, set()
        if total > best - 1e-9:
            rest = sum(padded[j].sum() for j in range(len(padded)) if j not in chosen)
            union = sum((a | b).sum() for a, b in paired) + rest
            possible.add(sum((a & b).sum() for a, b in paired) / union if union else 1.0)
    assert any(compare(*pair)["aji_plus"] == pytest.approx(value) for value in possible)


@given(PAIRS, st.floats(0.01, 0.3))
def test_boundary_iou_is_that_of_training(pair, width):
    a, b = (torch.from_numpy(image > 0) for image in pair)
    found = score(Labels.of(pair[0]), Labels.of(pair[1]), width).ratios()["boundary_iou"]
    if a.any() or b.any():
        assert found == pytest.approx(float(boundary_iou(a, b, width)))


@given(PAIRS)
def test_boundary_iou_is_that_of_eroded_masks(pair):
    def boundary(mask: np.ndarray) -> np.ndarray:
        steps = max(1, round(0.02 * math.hypot(*mask.shape)))
        return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=steps)

    a, b = (boundary(image > 0) for image in pair)
    if a.any() or b.any():
        assert compare(*pair)["boundary_iou"] == pytest.approx(iou(a, b))


@given(PAIRS)
def test_hd95_is_that_of_all_distances_between_edge_px(pair):
    a, b = pair[0] > 0, pair[1] > 0
    found = hd95(a, b)
    if not (a.any() and b.any()):
        assert found == (math.hypot(*a.shape) if a.any() or b.any() else 0)
        return

    def edge(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        y, x = np.nonzero(padded)
        inner = padded[y - 1, x] & padded[y + 1, x] & padded[y, x - 1] & padded[y, x + 1]
        return np.stack([y, x], axis=1)[~inner]

    between = np.hypot(*(edge(a)[:, None] - edge(b)[None]).transpose(2, 0, 1))
    expected = max(np.percentile(between.min(axis=1), 95), np.percentile(between.min(axis=0), 95))
    assert found == pytest.approx(expected)


@given(PAIRS, st.permutations(range(1, 5)), st.permutations(range(1, 5)))
def test_nothing_depends_on_the_labels(pair, first, second):
    truth, prediction = (
        np.array([0, *order], np.uint32)[image] * 70_001 for image, order in zip(pair, (first, second), strict=True)
    )
    assert compare(truth, prediction) == compare(*pair)


@given(PAIRS)
def test_a_perfect_prediction_gets_1(pair):
    assert set(compare(pair[0], pair[0]).values()) == {1.0}
    assert hd95(pair[0] > 0, pair[0] > 0) == 0


@pytest.mark.parametrize("swapped", [False, True])
def test_an_empty_side_gets_0_and_the_diagonal(swapped):
    images = [np.ones((3, 4), int), np.zeros((3, 4), int)]
    truth, prediction = images[::-1] if swapped else images
    assert set(compare(truth, prediction).values()) == {0.0}
    assert hd95(truth > 0, prediction > 0) == 5


def test_two_objects_in_one_prediction_match_none_at_exactly_half():
    truth = np.array([[1, 1, 2, 2]])
    assert compare(truth, np.ones((1, 4), int))["f1"] == 0


def test_counts_add_up_over_images():
    one, other = Counts(common=2, truth_px=4, predicted_px=2, truth_objects=1), Counts(truth_px=4, truth_objects=1)
    both = Counts(*np.add(one, other))
    assert ratios(both)["dice"] == pytest.approx(0.4)


def test_objects_of_one_class_keep_their_px():
    labels = Labels.of(np.array([[5, 5, 0], [7, 9, 9]]), {5: "a", 9: "a", 7: "b"})
    assert labels.classes == ("a", "b", "a")
    assert labels.only("a").image.tolist() == [[1, 1, 0], [0, 2, 2]]
    assert labels.only("c").classes == ()
    assert labels.areas.tolist() == [2, 1, 2]


def test_aji_plus_prefers_the_larger_iou_to_more_px_in_common():
    truth, prediction = np.zeros((2, 48), int), np.zeros((2, 48), int)
    truth[0, :20] = 1
    prediction[0, :12] = prediction[1] = 1  # 12 px in common, IoU 12 / 68
    prediction[0, 12:20] = 2  # 8 px in common, IoU 8 / 20
    assert compare(truth, prediction)["aji_plus"] == 8 / 80
