"""WSI-SAM's two decoders and its published inference, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_pipeline.models.hq_decoder import HqMaskDecoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.preprocess import restore
from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.wsi_sam import DualDecoder, WsiSamSegmenter, build_wsi_sam, init_wsi_head

EMBEDDING = np.s_[:, ::8, ::4, ::4]
BOXES = {"even_box": (100.0, 150.0, 700.0, 620.0), "odd_box": (101.0, 37.0, 963.0, 697.0)}


def every(step: int) -> tuple:
    return (..., slice(None, None, step), slice(None, None, step))


def prompts_of(case):
    """Boxes or points of a recorded case as one prompt on one image."""
    if case["points"] is not None:
        return PromptTensors(points=case["points"][0][None], point_labels=case["points"][1][None])
    return PromptTensors(boxes=case["boxes"][None])


def all_features(decoder, decoded, features):
    """(B, 32, 256, 256) mask features: the branch's masks for the 32 unit vectors."""
    units = torch.eye(32).expand(*decoded.image.shape[:2], 32, 32)
    return decoder.hq_masks(decoder.upscale(decoded), features, units).flatten(0, 1)


def branch(decoder, sam, encoded, prompts):
    """One branch's prompts, answer and image features."""
    asked = embed_prompts(sam.prompt_encoder, prompts)
    side = decoder.image_side(encoded.embedding, sam.prompt_encoder.get_dense_pe()[0], asked.dense)
    return asked, decoder.decode(side, asked.sparse), decoder.image_features(encoded.embedding, encoded.early)


def to_1024(masks):
    return restore(masks.flatten(0, 1), 1024, (1024, 1024), (1024, 1024))


@pytest.fixture(scope="module")
def stored(golden):
    return golden("wsi_sam_vit_tiny")


@pytest.fixture(scope="module")
def patches(weights):
    return {name: weights.noise_image(f"wsi_{name}", (3, 1024, 1024))[None] for name in ("high", "low")}


@pytest.fixture(scope="module")
def encoded(wsi_tiny, patches):
    with torch.no_grad():
        return {name: wsi_tiny.sam.encode(pixels) for name, pixels in patches.items()}


@pytest.mark.parametrize(
    ("variant", "branch_name", "keys"),
    [
        ("vit_t", "high", "wsi_sam_net_high_vit_tiny"),
        ("vit_t", "low", "wsi_sam_net_low_vit_tiny"),
        ("vit_b", "high", "wsi_sam_net_high_vit_b"),
        ("vit_b", "low", "wsi_sam_net_high_vit_b"),
        ("lite_medsam", "high", "wsi_sam_net_high_vit_tiny"),
    ],
)
def test_keys_and_shapes_are_those_of_the_published_files(variant, branch_name, keys, key_list):
    with torch.device("meta"):
        state = getattr(build_wsi_sam(variant), branch_name).state_dict()
    assert {key: "x".join(map(str, value.shape)) for key, value in state.items()} == key_list(keys)


def test_encoded_pair(encoded, stored, same):
    for name, output in encoded.items():
        same(output.embedding, stored, f"{name}/image_embedding", EMBEDDING)
    same(encoded["high"].early, stored, "high/interm", np.s_[:, ::8, ::8, ::5])


@pytest.mark.slow
@pytest.mark.parametrize("name", BOXES)
def test_published_inference(name, wsi_tiny, patches, stored, same):
    boxes = torch.tensor(BOXES[name]).view(1, 1, 4)
    logits = wsi_tiny(patches["high"], patches["low"], PromptTensors(boxes=boxes), strict=True)
    same(logits, stored, f"{name}/final_logits_1024", every(16))
    inside = (logits > 0).numpy()
    assert abs(int(inside.sum()) - int(stored[f"{name}/final_mask_pixels"])) <= 8
    assert (
        np.unpackbits(np.packbits(inside[..., ::4, ::4].ravel()) ^ stored[f"{name}/final_mask_packed_stride4"]).sum()
        <= 4
    )


@pytest.mark.parametrize("name", BOXES)
def test_both_branches_of_the_published_inference(name, wsi_tiny, encoded, stored, same):
    high = PromptTensors(boxes=torch.tensor(BOXES[name]).view(1, 1, 4))
    low = high.in_low_patch(1024, 2.0, floor=True)
    np.testing.assert_array_equal(low.boxes.flatten(), stored[f"{name}/box_low"])
    tokens, features = {}, {}
    for which, prompts in (("high", high), ("low", low)):
        decoder = getattr(wsi_tiny, which)
        _, decoded, fixed = branch(decoder, wsi_tiny.sam, encoded[which], prompts)
        upscaled = decoder.upscale(decoded)
        same(
            decoder.masks(upscaled, decoder.mask_vectors(decoded, range(1)))[0],
            stored,
            f"{name}/{which}/sam_mask_256",
            every(4),
        )
        tokens[which] = decoder.token_vector(decoded)
        same(tokens[which][0], stored, f"{name}/{which}/token")
        own = decoder.hq_masks(upscaled, fixed, tokens[which])
        same(to_1024(own), stored, f"{name}/{which}/wsi_only_mask_1024", every(16))
        features[which] = all_features(decoder, decoded, fixed)
        same(features[which], stored, f"{name}/{which}/mask_features", np.s_[:, ::2, ::16, ::16])
    joint = (tokens["high"] + tokens["low"])[0, 0]
    for which, suffix in (("high", "256"), ("low", "low_256")):
        masks = torch.einsum("kf,bfyx->bkyx", joint, features[which])
        same(masks, stored, f"{name}/aggregated_token_mask_{suffix}", every(4))


@pytest.mark.parametrize("which", ["high", "low"])
def test_a_branch_on_two_images_in_one_batch(which, wsi_tiny, weights, prompt_cases, stored, same):
    decoder = getattr(wsi_tiny, which)
    embedding = weights.normal_input("image_embedding_batch2", (2, 256, 64, 64))
    early = weights.normal_input("interm_embedding_160_batch2", (2, 64, 64, 160))
    prompts = PromptTensors(boxes=prompt_cases["boxes2"]["boxes"].unsqueeze(1))
    _, decoded, features = branch(decoder, wsi_tiny.sam, EncoderOutput(embedding, early), prompts)
    upscaled = decoder.upscale(decoded)
    for mode, ambiguous in (("single", None), ("multi", torch.ones(2, 1, dtype=torch.bool))):
        masks = decoder.masks(upscaled, decoder.best_vector(decoded, ambiguous)[0])
        same(masks.flatten(0, 1), stored, f"synthetic_batch2/{which}/{mode}/sam_mask_256", every(8))
    token = decoder.token_vector(decoded)
    same(token.flatten(0, 1), stored, f"synthetic_batch2/{which}/token")
    own = decoder.hq_masks(upscaled, features, token)
    same(to_1024(own), stored, f"synthetic_batch2/{which}/wsi_only_mask_1024", every(32))


@pytest.mark.parametrize("case", ["box", "points"])
def test_vit_b_decoders(case, weights, mobile_sam, prompt_cases, golden, same):
    stored = golden("wsi_sam_vit_b_decoders")
    both = DualDecoder(HqMaskDecoder(768), HqMaskDecoder(768)).eval()
    weights.fill_(both.high, "net_high.")
    weights.fill_(both.low, "net_low.")
    synthetic = {
        "high": EncoderOutput(
            weights.normal_input("image_embedding", (1, 256, 64, 64)),
            weights.normal_input("interm_embedding_768", (1, 64, 64, 768)),
        ),
        "low": EncoderOutput(
            weights.normal_input("image_embedding_low", (1, 256, 64, 64)),
            weights.normal_input("interm_embedding_768_low", (1, 64, 64, 768)),
        ),
    }
    high = prompts_of(prompt_cases[case])
    low = high.in_low_patch(1024, 2.0)
    asked_high, decoded_high, features = branch(both.high, mobile_sam, synthetic["high"], high)
    asked_low, decoded_low, _ = branch(both.low, mobile_sam, synthetic["low"], low)
    tokens = {"high": both.high.token_vector(decoded_high), "low": both.low.token_vector(decoded_low)}
    for which, token in tokens.items():
        same(token[0], stored, f"{case}/{which}/token")
    upscaled = both.high.upscale(decoded_high)
    sam_mask = both.high.masks(upscaled, both.high.mask_vectors(decoded_high, range(1)))
    same(sam_mask[0], stored, f"{case}/high/sam_mask_256", every(4))
    aggregated = both.high.hq_masks(upscaled, features, tokens["high"] + tokens["low"])
    same(aggregated[0], stored, f"{case}/aggregated_token_mask_256", every(4))
    position = mobile_sam.prompt_encoder.get_dense_pe()[0]
    dense = (asked_high.dense, asked_low.dense)
    pair = both.prepare(synthetic["high"], synthetic["low"].embedding, position, dense)
    same(both(pair, asked_high, asked_low).masks.squeeze(2), stored, f"{case}/final_256", every(4))


@pytest.mark.slow
def test_segmenter_gives_the_published_masks(wsi_tiny, patches, stored):
    """Through uint8 pixels, folded batch norms and both boxes in one call."""
    pixels = {name: patch.permute(0, 2, 3, 1).numpy().astype(np.uint8) for name, patch in patches.items()}
    segmenter = WsiSamSegmenter(wsi_tiny, strict=True)
    boxes = np.array(list(BOXES.values()), np.float32)
    embedding = segmenter.encode(PairImages(pixels["high"], pixels["low"], 2.0))
    masks = segmenter.decode(embedding, PromptBatch(np.zeros(2, np.int64), boxes=boxes))
    for name, logits in zip(BOXES, masks.logits, strict=True):
        np.testing.assert_allclose(logits[::16, ::16], stored[f"{name}/final_logits_1024"][0, 0], rtol=1e-4, atol=1e-4)


def test_an_initialised_head_answers_as_the_backbone_alone(weights, mobile_sam, prompt_cases):
    wsi = build_wsi_sam("vit_t")
    wsi.sam.load_state_dict(mobile_sam.state_dict())
    weights.fill_(wsi.high, "net_high.")
    weights.fill_(wsi.low, "net_low.")
    init_wsi_head(wsi)
    seen = EncoderOutput(
        weights.normal_input("image_embedding", (1, 256, 64, 64)),
        weights.normal_input("interm_embedding_160", (1, 64, 64, 160)),
    )
    prompts = prompts_of(prompt_cases["boxes2"])
    high, low = (embed_prompts(wsi.sam.prompt_encoder, p) for p in (prompts, prompts.in_low_patch(1024, 2.0)))
    both = DualDecoder(wsi.high, wsi.low)
    position = wsi.sam.prompt_encoder.get_dense_pe()
    answer = both(both.prepare(seen, seen.embedding, position[0], (high.dense, low.dense)), high, low)
    sparse, dense = wsi.sam.prompt_encoder(**prompt_cases["boxes2"])
    masks, iou = wsi.sam.mask_decoder(seen.embedding, position, sparse, dense[:1], False)
    torch.testing.assert_close(answer.masks[0], masks, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answer.iou[0], iou, rtol=1e-5, atol=1e-5)
