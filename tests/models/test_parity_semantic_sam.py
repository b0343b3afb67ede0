"""Semantic-SAM equals the published code, number for number."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from wsi_pipeline.models.preprocess import SAM_PIXELS
from wsi_pipeline.models.semantic_sam.answers import BOX, POINT
from wsi_pipeline.models.semantic_sam.deformable import MultiScaleDeformableAttention, sample
from wsi_pipeline.models.semantic_sam.model import SemanticSam
from wsi_pipeline.models.semantic_sam.official import our_state
from wsi_pipeline.models.semantic_sam.positions import box_sine, cell_centres, cell_sine, inverse_sigmoid

SHAPES = ((6, 8), (3, 4), (2, 2))
CLICKS = torch.tensor([[[0.30, 0.40, 0, 0], [0.72, 0.55, 0, 0]]])
COPIES = re.compile(r"predictor\.(?:decoder\.)?bbox_embed\.\d+")


@pytest.fixture(scope="module")
def functions(golden):
    return golden("semantic_functions")


@pytest.fixture(scope="module")
def stored(golden):
    return golden("semantic_sam_swin_t")


@pytest.fixture(scope="module")
def network(weights, key_list):
    """Swin-T with weights drawn from the published keys."""
    published = {}
    for key, shape in key_list("semantic_sam_swin_t").items():
        drawn_as = COPIES.sub("predictor._bbox_embed", key).replace("decoder.norm.", "decoder_norm.")
        published[key] = torch.from_numpy(weights.weight(drawn_as, [int(side) for side in shape.split("x")]))
    model = SemanticSam("swin-t").eval()
    model.load_state_dict(our_state(published, where="stored keys"))
    return model


@pytest.fixture(scope="module")
def pixels(weights):
    return weights.noise_image("semantic_image", (1, 3, 96, 128))


@pytest.fixture(scope="module")
def features(network, pixels):
    with torch.no_grad():
        return network.features(pixels)


def close(got, stored, atol=1e-5, rtol=1e-5):
    assert tuple(got.shape) == stored.shape
    np.testing.assert_allclose(got.numpy(), stored, rtol=rtol, atol=atol)


def nearly(got, stored):
    """As close as sixteen layers allow."""
    close(got, stored, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", ["t", "l"])
def test_every_published_key_is_ours_a_copy_or_of_no_use(size, key_list):
    published = {
        f"model.{key}": torch.zeros(()).expand([int(side) for side in shape.split("x")])
        for key, shape in key_list(f"semantic_sam_swin_{size}").items()
    }
    with torch.device("meta"):
        ours = SemanticSam(f"swin-{size}").state_dict()
    published["model.lang_encoder.token_embedding.weight"] = torch.zeros(2, 2)
    found = our_state(published, where="stored keys")
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in ours.items()}


def test_attention_core(weights, functions):
    value = weights.normal_input("msda_value", (2, 64, 4, 8))
    places = weights.uniform_input("msda_locations", (2, 5, 4, 3, 4, 2), -0.15, 1.15)
    shares = weights.uniform_input("msda_weights", (2, 5, 4, 12), 0, 1)
    shares = (shares / shares.sum(dim=-1, keepdim=True)).view(2, 5, 4, 3, 4)
    assert functions["core_spatial_shapes"].tolist() == [list(shape) for shape in SHAPES]
    close(sample(value, SHAPES, places, shares), functions["core_output"])


@pytest.fixture(scope="module")
def attention(weights):
    return weights.fill_(MultiScaleDeformableAttention(32, levels=3, heads=4, points=4), "msda.")


def test_attention_around_points(attention, weights, functions):
    query, source = weights.normal_input("msda_query", (2, 5, 32)), weights.normal_input("msda_source", (2, 64, 32))
    references = weights.uniform_input("msda_ref2", (2, 5, 3, 2), 0, 1)
    close(attention(query, references, attention.values(source), SHAPES), functions["module_points_output"])


def test_attention_around_boxes(attention, weights, functions):
    query, source = weights.normal_input("msda_query", (2, 5, 32)), weights.normal_input("msda_source", (2, 64, 32))
    centres = weights.uniform_input("msda_ref2", (2, 5, 3, 2), 0, 1)
    references = torch.cat([centres, weights.uniform_input("msda_ref_wh", (2, 5, 3, 2), 0.02, 0.5)], dim=-1)

    def pad(layer, inputs, value):
        value[1, 40:48] = 0
        return value

    with attention.value_proj.register_forward_hook(pad):
        close(attention(query, references, attention.values(source), SHAPES), functions["module_boxes_output"])


def test_heads_start_by_looking_in_their_own_directions(functions):
    fresh = MultiScaleDeformableAttention(32, levels=3, heads=4, points=4)
    close(fresh.sampling_offsets.bias, functions["module_initial_offset_bias"])
    assert not fresh.sampling_offsets.weight.any()


def test_positions(weights, functions):
    close(box_sine(weights.uniform_input("sine_boxes", (3, 2, 4), 0, 1), 128)[..., ::4], functions["sine_boxes"])
    close(cell_sine(3, 5, 32, torch.device("cpu")).T.view(1, 32, 3, 5), functions["sine_image"])
    close(inverse_sigmoid(torch.tensor([0, 1e-6, 0.25, 0.5, 0.9, 1])), functions["inverse_sigmoid"])
    centres = cell_centres(SHAPES, torch.device("cpu"))
    close(centres[None, :, None].expand(-1, -1, 3, -1), functions["encoder_reference_points"])


def test_backbone(network, pixels, stored):
    for stage, found in enumerate(network.backbone(SAM_PIXELS.apply(pixels)), start=2):
        close(found[:, ::16], stored[f"backbone_res{stage}"], rtol=1e-4, atol=1e-4)


def test_pixel_decoder(features, stored):
    nearly(features.masks[:, ::8], stored["pixel_mask_features"])
    levels = features.memory.split([height * width for height, width in features.shapes], dim=1)
    for number, (level, shape) in enumerate(zip(reversed(levels), reversed(features.shapes), strict=True)):
        nearly(level.mT.unflatten(-1, shape)[:, ::8], stored[f"pixel_memory{number}"])


@pytest.mark.parametrize(("case", "isolate"), [("demo", False), ("isolated", True)])
def test_clicks(case, isolate, network, features, stored):
    (answers,) = network.decode(features, CLICKS, torch.full((1, 2), POINT), isolate=isolate)
    nearly(answers.quality, stored[f"{case}_pred_ious"])
    nearly(answers.boxes.flatten(1, 2), stored[f"{case}_pred_boxes"])
    nearly(answers.masks.flatten(1, 2)[..., ::2, ::2], stored[f"{case}_pred_masks"])


def test_a_click_alone(network, features, stored):
    (answers,) = network.decode(features, CLICKS[:, :1], torch.full((1, 1), POINT), isolate=False)
    nearly(answers.quality, stored["single_click_pred_ious"])


def test_a_box(network, features, stored):
    box = torch.tensor([[[0.5, 0.5, 0.4, 0.3]]])
    (answers,) = network.decode(features, box, torch.full((1, 1), BOX))
    nearly(answers.quality, stored["box_prompt_pred_ious"])
    nearly(answers.boxes.flatten(1, 2), stored["box_prompt_pred_boxes"])
