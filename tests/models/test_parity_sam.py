"""SAM vit_b equals the published code, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_pipeline.models.preprocess import restore
from wsi_pipeline.models.sam import SamInput, build_sam

EMBEDDING = np.s_[:, ::8, ::4, ::4]
CASES = ["box", "boxes2", "points", "points2", "points_box", "mask", "box_mask"]


def every(step: int) -> tuple:
    return (..., slice(None, None, step), slice(None, None, step))


@pytest.fixture(scope="module")
def stored(golden):
    return golden("sam_vit_b")


@pytest.fixture(scope="module")
def encoded(vit_b, weights):
    """Encoder output of the recorded image, and what the global blocks gave on the way."""
    seen = {}
    hooks = [
        vit_b.image_encoder.blocks[n].register_forward_hook(lambda *args, n=n: seen.update({n: args[-1]}))
        for n in (2, 5, 8, 11)
    ]
    with torch.no_grad():
        output = vit_b.encode(weights.noise_image("image", (1, 3, 1024, 1024)))
    for hook in hooks:
        hook.remove()
    return output, seen


@pytest.mark.parametrize(("variant", "keys"), [("vit_b", "sam_vit_b"), ("vit_l", "sam_vit_l"), ("vit_h", "sam_vit_h")])
def test_keys_and_shapes_are_those_of_the_published_files(variant, keys, key_list):
    with torch.device("meta"):
        state = build_sam(variant).state_dict()
    assert {key: "x".join(map(str, value.shape)) for key, value in state.items()} == key_list(keys)


@pytest.mark.slow
def test_encoder_and_its_global_blocks(encoded, stored, same):
    output, blocks = encoded
    same(output.embedding, stored, "image_embedding", EMBEDDING)
    for number, tokens in blocks.items():
        same(tokens, stored, f"block{number}", np.s_[:, ::8, ::8, ::24])
    assert torch.equal(output.early, blocks[2])


def test_dense_position_code(vit_b, stored, same):
    same(vit_b.prompt_encoder.get_dense_pe(), stored, "dense_pe", EMBEDDING)


def check_decoder(sam, embedding, prompt, stored, name, same):
    sparse, dense = sam.prompt_encoder(**prompt)
    same(sparse, stored, f"{name}/sparse")
    same(dense, stored, f"{name}/dense", np.s_[:, ::16, ::8, ::8])
    for mode, step in (("single", 4), ("multi", 8)):
        masks, iou = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, mode == "multi")
        same(masks, stored, f"{name}/{mode}/low_res_masks", every(step))
        same(iou, stored, f"{name}/{mode}/iou")


@pytest.mark.parametrize("case", CASES)
def test_decoder_on_a_synthetic_embedding(case, vit_b, weights, prompt_cases, stored, same):
    embedding = weights.normal_input("image_embedding", (1, 256, 64, 64))
    check_decoder(vit_b, embedding, prompt_cases[case], stored, f"synthetic/{case}", same)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["box", "points"])
def test_decoder_on_the_encoded_image(case, vit_b, encoded, prompt_cases, stored, same):
    check_decoder(vit_b, encoded[0].embedding, prompt_cases[case], stored, f"image/{case}", same)


@pytest.mark.slow
def test_complete_forward_on_rectangular_images(vit_b, weights, prompt_cases, stored, same):
    image = weights.noise_image("image_rect", (3, 768, 1024))
    box = SamInput(image, (600, 800), boxes=prompt_cases["box"]["boxes"])
    points, labels = prompt_cases["points"]["points"]
    mirrored = SamInput(image.flip(-1), (1536, 2048), points=points, point_labels=labels)
    for number, output in enumerate(vit_b([box, mirrored])):
        name = f"forward/{number}"
        same(output.logits, stored, f"{name}/low_res_logits", every(4))
        same(output.iou, stored, f"{name}/iou")
        assert list(output.masks.shape) == stored[f"{name}/masks_shape"].tolist()
        assert abs(int(output.masks.sum()) - int(stored[f"{name}/mask_pixels"])) <= 8
        packed = np.packbits(output.masks[..., ::4, ::4].numpy().ravel())
        assert np.unpackbits(packed ^ stored[f"{name}/masks_packed"]).sum() <= 4


def test_post_processing(weights, stored, same):
    logits = weights.uniform_input("low_res_masks", (1, 1, 256, 256), -5, 5)
    same(restore(logits, 1024, (768, 1024), (600, 800)), stored, "postprocess/logits", every(10))
