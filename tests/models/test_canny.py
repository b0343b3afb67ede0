"""Edges are those of OpenCV, whatever the image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.models.pa_sam.canny import canny


def published(image: np.ndarray) -> np.ndarray:
    return cv2.Canny(np.ascontiguousarray(image), 10, 100) > 0


def edges(*images: np.ndarray) -> np.ndarray:
    return canny(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).numpy()


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.normalize(cv2.GaussianBlur(image, (0, 0), sigma), None, 0, 255, cv2.NORM_MINMAX)


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    contrast=st.sampled_from([2, 5, 12, 40, 120, 256]),
    base=st.sampled_from([0, 128, 254]),
)
@settings(max_examples=150, deadline=None)
def test_noise_of_any_size_and_contrast(seed, height, width, contrast, base):
    # what does not fit into a byte wraps around, as it does in the published guide
    noise = np.random.default_rng(seed).integers(0, contrast, (height, width, 3)) + base
    image = noise.astype(np.uint8)
    np.testing.assert_array_equal(edges(image)[0], published(image))


@given(seed=st.integers(0, 2**32 - 1), sigma=st.floats(0.6, 6), side=st.integers(8, 96))
@settings(max_examples=60, deadline=None)
def test_smooth_images(seed, sigma, side):
    image = smooth(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8), sigma)
    np.testing.assert_array_equal(edges(image)[0], published(image))


def test_images_of_a_batch_do_not_meet():
    rng = np.random.default_rng(0)
    images = [smooth(rng.integers(0, 256, (64, 48, 3), np.uint8), sigma) for sigma in (0.5, 1, 2, 4)]
    images.append(np.zeros_like(images[0]))
    for found, image in zip(edges(*images), images, strict=True):
        np.testing.assert_array_equal(found, published(image))
        assert found.any() == image.any()


def test_a_faint_edge_counts_all_the_way_from_one_bright_spot():
    image = np.zeros((20, 200, 3), np.uint8)
    image[10:] = 12
    assert not edges(image).any()
    image[10:, :4] = 200
    found = edges(image)[0]
    assert found[:, 199].any()
    np.testing.assert_array_equal(found, published(image))


@pytest.mark.parametrize("thresholds", [(0, 0), (50, 60), (100, 300)])
def test_other_thresholds(thresholds):
    image = np.random.default_rng(1).integers(0, 60, (50, 70, 3), np.uint8)
    found = canny(torch.from_numpy(image).permute(2, 0, 1)[None], *thresholds)[0].numpy()
    np.testing.assert_array_equal(found, cv2.Canny(image, *thresholds) > 0)
