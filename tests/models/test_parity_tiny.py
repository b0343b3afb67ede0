"""MobileSAM and LiteMedSAM equal the published code, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_pipeline.models.backbones.tiny_vit import fuse_for_inference
from wsi_pipeline.models.preprocess import restore
from wsi_pipeline.models.sam import build_sam

EMBEDDING = np.s_[:, ::8, ::4, ::4]


def every(step: int) -> tuple:
    return (..., slice(None, None, step), slice(None, None, step))


def trace(encoder, pixels):
    """Encoder output, the patch embedding (B, C, h, w) and each stage's tokens (B, N, C)."""
    seen = {}
    hooks = [encoder.patch_embed.register_forward_hook(lambda *a: seen.update(patch_embed=a[-1].permute(0, 3, 1, 2)))]
    hooks += [
        stage.register_forward_hook(lambda *a, n=n: seen.update({f"layer{n}": a[-1].flatten(1, 2)}))
        for n, stage in enumerate(encoder.layers)
    ]
    with torch.no_grad():
        output = encoder(pixels)
    for hook in hooks:
        hook.remove()
    return output, seen


@pytest.fixture(scope="module")
def mobile(golden):
    return golden("mobile_sam_vit_t")


@pytest.fixture(scope="module")
def lite(golden):
    return golden("lite_medsam_256")


@pytest.fixture(scope="module")
def mobile_trace(mobile_sam, weights):
    return trace(mobile_sam.image_encoder, mobile_sam.preprocess(weights.noise_image("image", (1, 3, 1024, 1024))))


@pytest.fixture(scope="module")
def lite_inputs(weights):
    image = weights.blob_image("blob_256", 256)[None]
    return {"div255": image / 255, "minmax": (image - image.min()) / (image.max() - image.min())}


@pytest.fixture(scope="module")
def lite_traces(lite_medsam, lite_inputs):
    return {name: trace(lite_medsam.image_encoder, pixels) for name, pixels in lite_inputs.items()}


@pytest.mark.parametrize(("variant", "keys"), [("vit_t", "mobile_sam_vit_t"), ("lite_medsam", "lite_medsam")])
def test_keys_and_shapes_are_those_of_the_published_files(variant, keys, key_list):
    with torch.device("meta"):
        state = build_sam(variant).state_dict()
    shapes = {key: "x".join(map(str, value.shape)) or "scalar" for key, value in state.items()}
    assert shapes == key_list(keys)


def test_mobile_sam_encoder_stage_by_stage(mobile_trace, mobile, same):
    output, seen = mobile_trace
    same(seen["patch_embed"], mobile, "patch_embed", np.s_[:, ::8, ::16, ::16])
    for number in range(4):
        same(seen[f"layer{number}"], mobile, f"layer{number}", np.s_[:, ::67, ::5])
    same(output.embedding, mobile, "image_embedding", EMBEDDING)
    assert torch.equal(output.early.flatten(1, 2), seen["layer1"])


def test_attention_biases_are_never_stale(weights, mobile, mobile_trace):
    """Weights that arrive after ``eval()`` count, as they do not in the published code."""
    sam = build_sam("vit_t").eval()
    sam.load_state_dict(
        {
            key: torch.from_numpy(weights.weight(key, tuple(value.shape))) if value.is_floating_point() else value
            for key, value in sam.state_dict().items()
        }
    )
    embedding = sam.encode(weights.noise_image("image", (1, 3, 1024, 1024))).embedding
    torch.testing.assert_close(embedding, mobile_trace[0].embedding, rtol=1e-4, atol=1e-4)
    assert np.abs(embedding.numpy()[EMBEDDING] - mobile["stale_bias_image_embedding"]).max() > 0.05


def test_folding_batch_norms_changes_nothing(mobile_sam, mobile_trace, weights):
    before = {key: value.clone() for key, value in mobile_sam.image_encoder.state_dict().items()}
    fused = fuse_for_inference(mobile_sam.image_encoder)
    output = fused(mobile_sam.preprocess(weights.noise_image("image", (1, 3, 1024, 1024))))
    torch.testing.assert_close(output.embedding, mobile_trace[0].embedding, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.early, mobile_trace[0].early, rtol=1e-4, atol=1e-4)
    after = mobile_sam.image_encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("case", ["box", "points", "mask"])
def test_mobile_sam_masks(case, mobile_sam, mobile_trace, prompt_cases, mobile, same):
    sparse, dense = mobile_sam.prompt_encoder(**prompt_cases[case])
    position = mobile_sam.prompt_encoder.get_dense_pe()
    for mode in ("single", "multi"):
        embedding = mobile_trace[0].embedding
        masks, iou = mobile_sam.mask_decoder(embedding, position, sparse, dense, mode == "multi")
        same(masks, mobile, f"image/{case}/{mode}/low_res_masks", every(8))
        same(iou, mobile, f"image/{case}/{mode}/iou")


@pytest.mark.parametrize("scaling", ["div255", "minmax"])
def test_lite_medsam_encoder_stage_by_stage(scaling, lite_traces, lite, same):
    output, seen = lite_traces[scaling]
    for number in range(4):
        same(seen[f"layer{number}"], lite, f"{scaling}/layer{number}", np.s_[:, ::67, ::10])
    same(output.embedding, lite, f"{scaling}/image_embedding", EMBEDDING)


@pytest.mark.parametrize("scaling", ["div255", "minmax"])
def test_lite_medsam_masks(scaling, lite_medsam, lite_traces, lite, same):
    sparse, dense = lite_medsam.prompt_encoder(points=None, boxes=torch.tensor([[48.0, 84, 188, 192]]), masks=None)
    embedding, position = lite_traces[scaling][0].embedding, lite_medsam.prompt_encoder.get_dense_pe()
    logits, iou = lite_medsam.mask_decoder(embedding, position, sparse, dense, False)
    same(logits, lite, f"{scaling}/box/logits", every(4), atol=1e-3)
    same(iou, lite, f"{scaling}/box/single_iou")
    inside = (logits > 0).numpy()
    assert abs(int(inside.sum()) - int(lite[f"{scaling}/box/mask_pixels"])) <= 4
    assert np.unpackbits(np.packbits(inside.ravel()) ^ lite[f"{scaling}/box/mask_packed"]).sum() <= 4
    restored = restore(logits, 256, (200, 256), (500, 640))
    same(restored, lite, f"{scaling}/box/postprocess_200x256_to_500x640", every(10), atol=1e-3)
    guesses, iou = lite_medsam.mask_decoder(embedding, position, sparse, dense, True)
    same(guesses, lite, f"{scaling}/box/multi_logits", every(8), atol=1e-3)
    same(iou, lite, f"{scaling}/box/multi_iou")


@pytest.mark.slow
def test_lite_medsam_on_two_images_in_one_batch(lite_medsam, lite_inputs, lite, same):
    image = lite_inputs["div255"]
    embedding = lite_medsam.image_encoder(torch.cat([image, image.flip(-1)])).embedding
    boxes = torch.tensor([[48.0, 84, 188, 192], [68, 84, 208, 192]])
    sparse, dense = lite_medsam.prompt_encoder(points=None, boxes=boxes, masks=None)
    decoder = lite_medsam.mask_decoder
    side = decoder.image_side(embedding, lite_medsam.prompt_encoder.get_dense_pe()[0], dense[:1])
    decoded = decoder.decode(side, sparse.unsqueeze(1))
    masks = decoder.masks(decoder.upscale(decoded), decoder.mask_vectors(decoded, range(1)))
    same(masks.flatten(0, 1), lite, "batch2/logits", every(4), atol=1e-3)


def test_lite_medsam_finds_the_ellipse(lite_medsam, lite_traces, weights):
    sparse, dense = lite_medsam.prompt_encoder(points=None, boxes=torch.tensor([[48.0, 84, 188, 192]]), masks=None)
    embedding = lite_traces["div255"][0].embedding
    logits, _ = lite_medsam.mask_decoder(embedding, lite_medsam.prompt_encoder.get_dense_pe(), sparse, dense, False)
    truth, found = weights.blob_mask(256), logits[0, 0] > 0
    assert float((truth & found).sum() / (truth | found).sum()) > 0.99
