"""Drawn tissue is the same for a seed, and its colours give nothing away."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks import scenes
from benchmarks.scenes import AGGREGATE, CLASSES, GLAND, VACUOLE, Scene, draw_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene(3)


def test_same_seed_same_pixels(scene: Scene) -> None:
    again, other = draw_scene(3), draw_scene(4)
    np.testing.assert_array_equal(again.image, scene.image)
    np.testing.assert_array_equal(again.labels, scene.labels)
    assert not np.array_equal(other.labels, scene.labels)


def test_there_is_some_of_everything_and_no_label_is_missing(scene: Scene) -> None:
    assert set(scene.classes) == set(CLASSES)
    assert np.unique(scene.labels).tolist() == list(range(len(scene.classes) + 1))


def test_shapes_are_whole_and_do_not_touch(scene: Scene) -> None:
    _, pieces = ndimage.label(scene.labels, np.ones((3, 3)))
    assert pieces == len(scene.classes)


def test_what_finds_no_room_is_left_out() -> None:
    crowded = draw_scene(0, size=160, glands=(9, 9), aggregates=(0, 0), vacuoles=(0, 0))
    assert 0 < len(crowded.classes) < 9
    assert set(crowded.classes) == {GLAND}


def test_lumen_and_fat_share_their_colour_and_so_do_nuclei(scene: Scene) -> None:
    means = {name: _brightest_and_darkest(scene, name) for name in CLASSES}
    np.testing.assert_allclose(means[GLAND][0], means[VACUOLE][0], atol=4)
    np.testing.assert_allclose(means[GLAND][1], means[AGGREGATE][1], atol=4)
    assert np.ptp([means[GLAND][1], means[VACUOLE][1]], axis=0).max() > 80


def _brightest_and_darkest(scene: Scene, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean RGB of the brightest and of the darkest twentieth of a class's first object."""
    pixels = scene.image[ndimage.binary_erosion(scene.labels == scene.classes.index(name) + 1, iterations=2)]
    ordered = pixels[np.argsort(pixels.sum(axis=1))].astype(float)
    twentieth = len(ordered) // 20
    return ordered[-twentieth:].mean(axis=0), ordered[:twentieth].mean(axis=0)


def test_radii_are_those_that_are_said(scene: Scene) -> None:
    areas = np.bincount(scene.labels.ravel())[1:]
    for name, area in zip(scene.classes, areas, strict=True):
        least, most = scenes._RADII[name]
        assert 0.8 * least < np.sqrt(area / np.pi) < 1.2 * most
