"""Boundaries of masks, against the published numbers and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from wsi_pipeline.training.boundary import boundary, boundary_iou, boundary_label, eroded, mask_iou


def random_mask(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.1


def test_mask_iou_is_the_published_one(recorded, golden):
    iou = mask_iou(recorded.predicted, recorded.target > 0.5)
    np.testing.assert_allclose(iou[:, 0].numpy(), golden["mask_iou"], rtol=1e-4, atol=1e-4)


def test_boundary_iou_is_the_published_one(recorded, golden):
    iou = boundary_iou(recorded.predicted, recorded.target > 0.5)
    np.testing.assert_allclose(iou[:, 0].numpy(), golden["boundary_iou"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(iou[:, 0].numpy(), golden["pa/boundary_iou_torch_order"], rtol=1e-4, atol=1e-4)


def test_boundary_label_is_the_published_one(recorded, golden):
    label = boundary_label(recorded.target > 0.5, 0.005)
    packed = np.packbits(label[..., ::2, ::2].numpy().ravel())
    np.testing.assert_array_equal(packed, golden["pa/uncertain_gt_packed_stride2"])
    assert label.sum() == golden["pa/uncertain_gt_pixels"]
    assert np.unique(label.int()).tolist() == golden["pa/uncertain_gt_values"].tolist()


@given(st.integers(0, 999), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.booleans())
def test_erosion_equals_repeated_small_erosions(seed, height, width, radius, beyond):
    mask = random_mask(seed, 2, 1, height, width)
    expected = [
        ndimage.binary_erosion(one, np.ones((3, 3)), iterations=radius, border_value=int(beyond))
        for one in mask[:, 0].numpy()
    ]
    np.testing.assert_array_equal(eroded(mask, radius, beyond=beyond)[:, 0].numpy(), expected)


@given(st.integers(0, 999), st.integers(2, 20), st.integers(2, 20))
def test_boundary_label_is_the_same_for_a_mask_and_its_complement_away_from_the_edge(seed, height, width):
    mask = random_mask(seed, height, width)
    differs = boundary_label(mask, 0.05) != boundary_label(~mask, 0.05)
    # width 0.05 is one px here
    assert not differs[1:-1, 1:-1].any()


def test_empty_masks_have_no_boundary():
    empty = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    assert not boundary_label(empty, 0.1).any()
    assert not boundary(empty, 0.1).any()


def test_the_boundary_of_a_full_mask_is_the_edge_of_the_image():
    full = torch.ones(1, 1, 10, 10, dtype=torch.bool)
    frame = torch.ones(10, 10, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    assert torch.equal(boundary_label(full, 0.05)[0, 0], frame)


@pytest.mark.parametrize("score", [mask_iou, boundary_iou])
def test_agreement_of_empty_equal_and_disjoint_masks(score):
    empty = torch.zeros(64, 64, dtype=torch.bool)
    left = empty.clone()
    left[:, :20] = True
    predicted = torch.stack([empty, left, left, empty])
    target = torch.stack([empty, left, left.flip(1), left])
    assert score(predicted, target).tolist() == [1, 1, 0, 0]
