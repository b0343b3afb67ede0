"""Coordinates on their way into a model: the low patch, resizing, padding; and attention in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.modeling.image_encoder import Attention as DecomposedAttention

from wsi_pipeline.models.backbones import vit
from wsi_pipeline.models.preprocess import (
    SAM_PIXELS,
    UNIT_PIXELS,
    pad_to_square,
    resize_coordinates,
    resize_longest_side,
    restore,
)
from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.tiling.plan import PatchPair


@given(
    xy=st.tuples(st.floats(0, 1024, width=32), st.floats(0, 1024, width=32)),
    factor=st.sampled_from([1.0, 1.5, 2.0, 4.0]),
    size=st.sampled_from([256, 1024]),
)
def test_prompts_go_where_the_pair_says(xy, factor, size):
    pair = PatchPair.around(5000.0, 7000.0, scale=(2.0, 2.0), size=size, context_factor=factor)
    prompts = PromptTensors(points=torch.tensor([[[xy]]]), boxes=torch.tensor([[[*xy, *xy]]]))
    moved = prompts.in_low_patch(size, factor)
    expected = pair.high_to_low(np.array(xy))
    np.testing.assert_allclose(moved.points[0, 0, 0], expected, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(moved.boxes[0, 0], [*expected, *expected], rtol=1e-6, atol=1e-3)


def test_strict_coordinates_are_rounded_down_before_they_are_moved():
    moved = PromptTensors(boxes=torch.tensor([[[101.0, 37.0, 963.0, 697.0]]])).in_low_patch(1024, 2.0, floor=True)
    assert moved.boxes.flatten().tolist() == [306, 274, 737, 604]


def test_mask_prompt_covers_the_middle_of_the_low_patch_only():
    masks = torch.full((1, 1, 256, 256), -3.0)
    masks[..., 64:, :] = 5
    low = PromptTensors(masks=masks).in_low_patch(1024, 2.0).masks[0, 0]
    assert low.shape == (256, 256)
    assert float(low[100, 128]) == pytest.approx(5)
    assert float(low[66, 128]) == pytest.approx(-3)
    outside = low.clone()
    outside[64:192, 64:192] = -3
    assert (outside == -3).all()


@pytest.mark.parametrize(("height", "width", "resized"), [(600, 800, (768, 1024)), (777, 1000, (796, 1024))])
def test_longest_side_is_scaled_and_coordinates_with_it(height, width, resized):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    pixels = resize_longest_side(image, 1024)
    assert pixels.shape == (3, *resized)
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 255
    corner = resize_coordinates(torch.tensor([[width, height]], dtype=torch.float64), (height, width), 1024)
    np.testing.assert_allclose(corner, [resized[::-1]])
    box = resize_coordinates(torch.tensor([[0, 0, width, height]], dtype=torch.float64), (height, width), 1024)
    np.testing.assert_allclose(box, [[0, 0, *resized[::-1]]])


def test_padding_is_added_after_scaling_and_removed_again():
    pixels = torch.full((3, 100, 256), 255.0)
    square = pad_to_square(UNIT_PIXELS.apply(pixels), 256)
    assert (square[:, :100] == 1).all()
    assert (square[:, 100:] == 0).all()
    mean = torch.tensor(SAM_PIXELS.mean).view(3, 1, 1).expand(3, 4, 4)
    assert SAM_PIXELS.apply(mean).abs().max() == 0
    logits = torch.arange(256.0).view(1, 1, 256, 1).expand(1, 1, 256, 256)
    assert restore(logits, 256, (100, 256), (100, 256)).max() == 99


@pytest.mark.parametrize("logits", [1, 196 * 50, 196 * 196 * 3, 1 << 24])
def test_attention_in_pieces_equals_the_published_block(logits, monkeypatch):
    torch.manual_seed(0)
    published = DecomposedAttention(64, num_heads=4, use_rel_pos=True, input_size=(14, 14))
    torch.nn.init.normal_(published.rel_pos_h)
    torch.nn.init.normal_(published.rel_pos_w)
    ours = vit.Attention(64, num_heads=4, use_rel_pos=True, input_size=(14, 14))
    ours.load_state_dict(published.state_dict())
    x = torch.randn(2, 14, 14, 64)
    monkeypatch.setitem(vit._LOGITS_AT_ONCE, "cpu", logits)
    torch.testing.assert_close(ours(x), published(x), rtol=1e-5, atol=1e-5)
