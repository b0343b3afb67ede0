"""PA-SAM vit_b equals the published code, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_pipeline.models.pa_sam.decoder import PaMaskDecoder
from wsi_pipeline.models.pa_sam.guide import Guide, guide_image, point_marks
from wsi_pipeline.models.pa_sam.mining import POINTS
from wsi_pipeline.models.pa_sam.model import build_pa_sam
from wsi_pipeline.models.sam import SamInput

EMBEDDING = np.s_[:, ::8, ::4, ::4]
CASES = {
    "synthetic_noise/box": ("noise", {"boxes": torch.tensor([[50.0, 60, 400, 450]])}),
    "synthetic_blob/box": ("blob", "box"),
    "synthetic_blob/points": ("blob", "points"),
    "synthetic_blob/mask": ("blob", "mask"),
}
END_TO_END_BOX = torch.tensor([[10.0, 20, 1000, 1010]])


def every(step: int) -> tuple:
    return (..., slice(None, None, step), slice(None, None, step))


@pytest.fixture(scope="module")
def stored(golden):
    return golden("pa_sam_vit_b")


@pytest.fixture(scope="module")
def decoder(weights):
    """The published decoder, its oversights included."""
    filled = weights.fill_(PaMaskDecoder().eval(), "mask_decoder.")
    filled.strict = True
    return filled


@pytest.fixture(scope="module")
def pixels(weights):
    return {
        "noise": weights.noise_image("image", (1, 3, 1024, 1024)),
        "blob": weights.blob_image("blob_1024", 1024).unsqueeze(0),
    }


@pytest.fixture(scope="module")
def guides(decoder, vit_b, pixels):
    with torch.no_grad():
        return {
            name: Guide(decoder.guiding_conv(guide_image(image, 1024)), point_marks(vit_b.prompt_encoder))
            for name, image in pixels.items()
        }


@pytest.mark.parametrize("variant", ["vit_b", "vit_l", "vit_h"])
def test_keys_and_shapes_are_those_of_the_published_files(variant, key_list):
    with torch.device("meta"):
        model = build_pa_sam(variant)
    shapes = {key: "x".join(map(str, value.shape)) for key, value in model.state_dict().items()}
    prefix = "mask_decoder."
    decoder = {key: shape for key, shape in shapes.items() if key.startswith(prefix)}
    assert decoder == key_list("pa_sam_merged_mask_decoder_part")
    assert {key.removeprefix(prefix): shape for key, shape in decoder.items()} == key_list("pa_sam_mask_decoder")
    sam = key_list(f"sam_{variant}")
    assert {key: shape for key, shape in shapes.items() if key in sam} == sam
    assert shapes.keys() - sam.keys() == decoder.keys() - sam.keys()


@pytest.mark.parametrize("name", ["noise", "blob"])
def test_guide(name, pixels, guides, stored, same):
    guide = guide_image(pixels[name], 1024)
    image, edges = guide[:, :3], guide[:, 3]
    same(image, stored, f"guide_input/{name}", every(16))
    bytes_ = image[0].permute(1, 2, 0).int().numpy() % 256
    np.testing.assert_array_equal(bytes_[::16, ::16], stored[f"guide_uint8/{name}"])
    np.testing.assert_array_equal(np.packbits(edges.bool().numpy()), stored[f"edges_packed/{name}"])
    tokens = guides[name].tokens
    same(tokens.mT.unflatten(2, (64, 64)), stored, f"guiding/{name}", EMBEDDING)


def check(decoder, sam, embedding, guide, prompt, stored, name, same):
    sparse, dense = sam.prompt_encoder(**{"points": None, "boxes": None, "masks": None, **prompt})
    image = decoder.image_side(embedding, sam.prompt_encoder.get_dense_pe()[0], dense, guide)
    decoded, maps, cells = decoder.decode_with_maps(image, sparse.unsqueeze(0))
    same(maps.uncertainty, stored, f"{name}/uncertainty")
    same(maps.coarse, stored, f"{name}/coarse")
    same(maps.refined, stored, f"{name}/refined")
    same(maps.final(), stored, f"{name}/final")
    inside, outside = cells.numbers[0, 0].split(POINTS)
    np.testing.assert_array_equal(inside.sort().values, stored[f"{name}/topk_positive"])
    np.testing.assert_array_equal(outside.sort().values, stored[f"{name}/topk_negative"])
    upscaled = decoder.upscale(decoded)
    vector, _ = decoder.best_vector(decoded, None)
    same(decoder.masks(upscaled, vector)[0], stored, f"{name}/single/low_res_masks", every(4))
    same(decoder.iou(decoded)[0], stored, f"{name}/single/iou")
    vector, iou = decoder.best_vector(decoded, torch.ones(1, 1, dtype=torch.bool))
    same(decoder.masks(upscaled, vector)[0], stored, f"{name}/multi/low_res_masks", every(8))
    same(iou[0], stored, f"{name}/multi/iou")


@pytest.mark.parametrize("name", CASES)
def test_decoder_on_a_synthetic_embedding(name, decoder, vit_b, weights, guides, prompt_cases, stored, same):
    image, prompt = CASES[name]
    prompt = prompt_cases[prompt] if isinstance(prompt, str) else prompt
    embedding = weights.normal_input("image_embedding", (1, 256, 64, 64))
    check(decoder, vit_b, embedding, guides[image], prompt, stored, name, same)


@pytest.mark.slow
def test_from_pixels_to_masks(weights, vit_b, decoder, pixels, guides, stored, same):
    with torch.device("meta"):
        model = build_pa_sam("vit_b")
    model.image_encoder, model.prompt_encoder, model.mask_decoder = vit_b.image_encoder, vit_b.prompt_encoder, decoder
    seen = []
    with model.image_encoder.register_forward_hook(lambda *args: seen.append(args[-1].embedding)):
        (output,) = model([SamInput(pixels["blob"][0], (1024, 1024), boxes=END_TO_END_BOX)])
    name = "e2e_blob/box"
    same(seen[0], stored, "e2e/image_embedding", EMBEDDING)
    check(decoder, vit_b, seen[0], guides["blob"], {"boxes": END_TO_END_BOX}, stored, name, same)
    same(output.logits, stored, f"{name}/single/low_res_masks", every(4))
    np.testing.assert_allclose(output.iou[0, 0], stored[f"{name}/single/iou"][0, 0], rtol=1e-4, atol=1e-4)
