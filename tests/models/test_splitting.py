"""Touching objects are told apart, nothing of the mask is lost, and nothing but the maps decides."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from wsi_pipeline.models.domain_decoder.splitting import SplitSettings, split_objects
from wsi_pipeline.training.domain_target import depths

MAPS = arrays(np.float32, (24, 24), elements=st.floats(0, 1, width=32))


def discs(*circles: tuple[float, float, float], side: int = 64) -> np.ndarray:
    """(side, side) int32 labels of circles ``(x, y, radius)``, later ones on top."""
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    for number, (cx, cy, radius) in enumerate(circles, start=1):
        labels[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = number
    return labels


def maps_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a perfect decoder says."""
    return (labels > 0).astype(np.float32), depths(labels, np.ones(labels.shape, bool)).astype(np.float32)


@given(first=st.floats(6, 11), second=st.floats(6, 11), angle=st.floats(0, 6.28), gap=st.floats(-0.5, 1.0))
def test_touching_discs_are_separated(first: float, second: float, angle: float, gap: float) -> None:
    apart = first + second + gap
    truth = discs((31, 31, first), (31 + np.cos(angle) * apart, 31 + np.sin(angle) * apart, second), side=80)
    found = split_objects(*maps_of(truth), SplitSettings())
    assert found.max() == 2
    for number in (1, 2):
        mine = found == np.bincount(found[truth == number]).argmax()
        assert (mine & (truth == number)).sum() / (mine | (truth == number)).sum() > 0.9


def test_an_elongated_object_stays_whole() -> None:
    y, x = np.mgrid[:64, :64]
    truth = (((x - 32) / 26) ** 2 + ((y - 32) / 7) ** 2 < 1).astype(np.int32)
    assert split_objects(*maps_of(truth), SplitSettings()).max() == 1


@given(probability=MAPS, distance=MAPS)
def test_labels_partition_the_thresholded_mask(probability: np.ndarray, distance: np.ndarray) -> None:
    found = split_objects(probability, distance, SplitSettings(threshold=0.4))
    np.testing.assert_array_equal(found > 0, probability >= np.float32(0.4))
    for number in range(1, int(found.max()) + 1):
        assert ndimage.label(found == number, np.ones((3, 3)))[1] == 1


@given(probability=MAPS, distance=MAPS, area=st.integers(1, 40))
def test_only_objects_of_the_least_area_are_left(probability: np.ndarray, distance: np.ndarray, area: int) -> None:
    every = split_objects(probability, distance, SplitSettings())
    large = split_objects(probability, distance, SplitSettings(min_area=area))
    areas = np.bincount(every.ravel())
    assert (np.bincount(large.ravel())[1:] >= area).all()
    np.testing.assert_array_equal(large > 0, (every > 0) & (areas[every] >= area))


def test_numbers_are_without_gaps_and_by_first_px() -> None:
    truth = discs((50, 10, 5), (10, 30, 5), (40, 50, 5))
    found = split_objects(*maps_of(truth), SplitSettings())
    values, first = np.unique(found, return_index=True)
    assert values.tolist() == [0, 1, 2, 3]
    assert (np.diff(first[1:]) > 0).all()


def test_nothing_is_found_where_nothing_is() -> None:
    empty = np.zeros((32, 32), np.float32)
    assert split_objects(empty, empty, SplitSettings()).max() == 0
