"""HQ-SAM, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_pipeline.models.hq_sam import HqSamSegmenter, build_hq_sam
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.sam import SamInput

EMBEDDING = np.s_[:, ::8, ::4, ::4]
MODES = {
    "single_sum": (False, False),
    "single_hq": (False, True),
    "multi_sum": (True, False),
    "multi_hq": (True, True),
}
CASES = ("box", "boxes2", "points", "points2", "points_box", "mask", "box_mask")
WIDTHS = {"vit_b": 768, "tiny": 160}


@pytest.fixture(scope="module")
def hq_vit_b(weights):
    return weights.fill_(build_hq_sam("vit_b"))


RECORDED = [("vit_b", case) for case in CASES] + [("tiny", case) for case in ("box", "boxes2", "points")]


@pytest.fixture(params=["vit_b", "tiny"])
def model(request):
    return request.param, request.getfixturevalue({"vit_b": "hq_vit_b", "tiny": "hq_tiny"}[request.param])


def check_case(hq, image, case, stored, name, same):
    for mode, (multimask, hq_only) in MODES.items():
        hq.hq_token_only = hq_only
        sparse, dense = hq.prompt_encoder(**case)
        dense = dense if case["masks"] is not None else dense[:1]
        masks, iou = hq.decode(image, hq.prompt_encoder.get_dense_pe(), sparse, dense, multimask)
        same(masks, stored, f"{name}/{mode}/low_res_masks", np.s_[..., ::8, ::8])
        same(iou, stored, f"{name}/{mode}/iou")
    hq.hq_token_only = False


@pytest.mark.parametrize("variant", ["vit_b", "vit_l", "vit_h", "vit_t"])
def test_keys_and_shapes_are_those_of_the_published_files(variant, key_list):
    with torch.device("meta"):
        state = build_hq_sam(variant).state_dict()
    published = key_list(f"hq_sam_{variant.replace('vit_t', 'vit_tiny')}")
    assert {key: "x".join(map(str, value.shape)) or "scalar" for key, value in state.items()} == published


@pytest.mark.parametrize(("model", "case"), RECORDED, indirect=["model"])
def test_synthetic_embedding(case, model, weights, prompt_cases, golden, same):
    name, hq = model
    width = WIDTHS[name]
    image = EncoderOutput(
        weights.normal_input("image_embedding", (1, 256, 64, 64)),
        weights.normal_input(f"interm_embedding_{width}", (1, 64, 64, width)),
    )
    stored = golden(f"hq_sam_vit_{name.removeprefix('vit_')}")
    check_case(hq, image, prompt_cases[case], stored, f"synthetic/{case}", same)


@pytest.mark.slow
def test_real_encoder_output(model, weights, prompt_cases, golden, same):
    name, hq = model
    stored = golden(f"hq_sam_vit_{name.removeprefix('vit_')}")
    image = hq.encode(weights.noise_image("image", (1, 3, 1024, 1024)))
    same(image.embedding, stored, "image_embedding", EMBEDDING)
    same(image.early, stored, "interm/0", np.s_[:, ::8, ::8, :: 24 if name == "vit_b" else 5])
    for case in ("box", "points"):
        check_case(hq, image, prompt_cases[case], stored, f"image/{case}", same)


@pytest.mark.slow
def test_complete_forward_on_two_images(model, weights, prompt_cases, golden):
    name, hq = model
    stored = golden(f"hq_sam_vit_{name.removeprefix('vit_')}")
    box = SamInput(weights.noise_image("image", (3, 1024, 1024)), (1024, 1024), boxes=prompt_cases["box"]["boxes"])
    points, labels = prompt_cases["points"]["points"]
    image = weights.noise_image("image_rect", (3, 768, 1024))
    pointed = SamInput(image, (600, 800), points=points, point_labels=labels)
    for number, output in enumerate(hq([box, pointed])):
        of_this = f"forward/{number}"
        np.testing.assert_allclose(
            output.logits[..., ::8, ::8], stored[f"{of_this}/low_res_logits"], rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(output.iou, stored[f"{of_this}/iou"], rtol=1e-4, atol=1e-4)
        assert abs(int(output.masks.sum()) - int(stored[f"{of_this}/mask_pixels"])) <= 8
        packed = np.packbits(output.masks[..., ::4, ::4].numpy().ravel())
        assert np.unpackbits(packed ^ stored[f"{of_this}/masks_packed"]).sum() <= 4


@pytest.mark.slow
@pytest.mark.parametrize("hq_only", [False, True])
def test_segmenter_gives_the_published_masks(hq_only, hq_tiny, weights, prompt_cases):
    """Through uint8 pixels and folded batch norms; two boxes in one call."""
    pixels = weights.noise_image("image", (1, 3, 1024, 1024))
    boxes = prompt_cases["boxes2"]["boxes"]
    segmenter = HqSamSegmenter(hq_tiny, hq_token_only=hq_only)
    embedding = segmenter.encode(PairImages(pixels.permute(0, 2, 3, 1).numpy().astype(np.uint8)))
    answer = segmenter.decode(embedding, PromptBatch(np.zeros(2, np.int64), boxes=boxes.numpy()))
    hq_tiny.hq_token_only = hq_only
    (whole,) = hq_tiny([SamInput(pixels[0], (256, 256), boxes=boxes)])
    hq_tiny.hq_token_only = False
    up = torch.nn.functional.interpolate(whole.logits, (1024, 1024), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(answer.logits, up.squeeze(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(answer.iou, whole.iou.squeeze(1), rtol=1e-4, atol=1e-4)
