"""PA-SAM beyond what was published: many prompts, batches, padding, windows, training, heads not trained yet."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
import torch

from wsi_pipeline.models.mask_decoder import CellWindows, MaskDecoder
from wsi_pipeline.models.pa_sam.decoder import PaMaskDecoder
from wsi_pipeline.models.pa_sam.guide import Guide, guide_image, point_marks
from wsi_pipeline.models.pa_sam.model import PaSam, build_pa_sam, init_pa_head
from wsi_pipeline.models.preprocess import SAM_PIXELS
from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.models.sam import Sam, SamInput

BOXES = torch.tensor([[100.0, 150, 700, 620], [30.5, 40.25, 980, 1000], [400, 20, 640, 300]])
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def assembled(sam: Sam, decoder: PaMaskDecoder) -> PaSam:
    """PA-SAM of a decoder and MobileSAM's encoders."""
    with torch.device("meta"):
        model = build_pa_sam("vit_t")
    model.image_encoder, model.prompt_encoder, model.mask_decoder = sam.image_encoder, sam.prompt_encoder, decoder
    return model.eval()


@pytest.fixture(scope="module")
def model(weights, mobile_sam) -> PaSam:
    """PA-SAM with a decoder of made-up weights."""
    return assembled(mobile_sam, weights.fill_(PaMaskDecoder(), "mask_decoder."))


@pytest.fixture(scope="module")
def embedding(weights) -> torch.Tensor:
    """Two images' embeddings."""
    return weights.normal_input("image_embedding_batch2", (2, 256, 64, 64))


@pytest.fixture(scope="module")
def guide(model, weights) -> Guide:
    """Two images' guides."""
    pixels = torch.stack([weights.blob_image("blob_1024", 1024), weights.noise_image("wsi_high", (3, 1024, 1024))])
    with torch.no_grad():
        return model.guide(pixels)


@pytest.fixture
def trained(model) -> PaMaskDecoder:
    """The decoder in training."""
    return copy.deepcopy(model.mask_decoder).train()


def of_image(guide: Guide, number: int) -> Guide:
    return guide._replace(tokens=guide.tokens[number : number + 1])


def decode(decoder, model, embedding, guide, prompts, **options):
    asked = embed_prompts(model.prompt_encoder, prompts)
    image = decoder.image_side(embedding, model.prompt_encoder.get_dense_pe()[0], asked.dense, guide)
    return decoder.decode_with_maps(image, asked.sparse, asked.padding, **options)


def assert_same(got, wanted):
    for name in ("masks", "iou"):
        torch.testing.assert_close(getattr(got, name), getattr(wanted, name), **CLOSE)
    for name in ("uncertainty", "coarse", "refined"):
        torch.testing.assert_close(getattr(got.maps, name), getattr(wanted.maps, name), **CLOSE)


@pytest.mark.parametrize("variant", ["vit_t", "lite_medsam"])
def test_every_encoder_takes_the_decoder(variant, key_list):
    with torch.device("meta"):
        state = build_pa_sam(variant).state_dict()
    shapes = {key: "x".join(map(str, value.shape)) for key, value in state.items() if key.startswith("mask_decoder.")}
    assert shapes == key_list("pa_sam_merged_mask_decoder_part")


def test_many_prompts_of_an_image_are_answered_as_one_at_a_time(model, embedding, guide):
    together = model.segment(embedding[:1], of_image(guide, 0), PromptTensors(boxes=BOXES[None]))
    assert together.masks.shape == (1, 3, 256, 256)
    assert together.maps.uncertainty.shape == (1, 3, 64, 64)
    for number, box in enumerate(BOXES):
        alone = model.segment(embedding[:1], of_image(guide, 0), PromptTensors(boxes=box.view(1, 1, 4)))
        torch.testing.assert_close(together.masks[:, number], alone.masks[:, 0], **CLOSE)
        torch.testing.assert_close(together.maps.refined[:, number], alone.maps.refined[:, 0], **CLOSE)


def test_images_of_a_batch_are_answered_as_alone(model, embedding, guide):
    boxes = torch.stack([BOXES[:2], BOXES[1:]])
    together = model.segment(embedding, guide, PromptTensors(boxes=boxes), multimask=True)
    for number in range(2):
        alone = model.segment(
            embedding[number : number + 1],
            of_image(guide, number),
            PromptTensors(boxes=boxes[number : number + 1]),
            multimask=True,
        )
        torch.testing.assert_close(together.masks[number], alone.masks[0], **CLOSE)
        torch.testing.assert_close(together.iou[number], alone.iou[0], **CLOSE)


def test_a_point_that_fills_the_batch_changes_nothing(model, embedding, guide):
    points, labels = torch.tensor([[[[200.0, 300]]]]), torch.tensor([[[1]]])
    alone = PromptTensors(points=points, point_labels=labels)
    filled = PromptTensors(
        points=torch.cat([points, torch.tensor([[[[900.0, 100]]]])], dim=2),
        point_labels=torch.cat([labels, torch.tensor([[[-1]]])], dim=2),
    )
    one = of_image(guide, 1)
    assert_same(model.segment(embedding[:1], one, filled), model.segment(embedding[:1], one, alone))


def test_prompts_with_masks_are_images_of_their_own(model, weights, embedding, guide):
    masks = weights.uniform_input("mask_prompt", (1, 1, 256, 256), -10, 10)
    masks = torch.cat([masks, masks.flip(-1)], dim=1)
    boxes = BOXES[None, :2]
    together = model.segment(embedding[:1], of_image(guide, 0), PromptTensors(boxes=boxes, masks=masks))
    assert together.masks.shape == (1, 2, 256, 256)
    for number in range(2):
        one = slice(number, number + 1)
        prompt = PromptTensors(boxes=boxes[:, one], masks=masks[:, one])
        alone = model.segment(embedding[:1], of_image(guide, 0), prompt)
        torch.testing.assert_close(together.masks[:, one], alone.masks, **CLOSE)


def test_window_equals_the_whole_map_inside(model, embedding, guide):
    decoder = model.mask_decoder
    decoded = decode(decoder, model, embedding[:1], of_image(guide, 0), PromptTensors(boxes=BOXES[None, :2])).decoded
    vector, _ = decoder.best_vector(decoded, None)
    first = torch.tensor([[[5], [30]]])
    windows = CellWindows(rows=first + torch.arange(12), columns=first + 4 + torch.arange(12))
    whole = decoder.masks(decoder.upscale(decoded), vector)
    drawn = decoder.masks(decoder.upscale(decoded, windows), vector)
    for number, start in enumerate((5, 30)):
        inside = whole[:, number, :, 4 * start : 4 * start + 48, 4 * (start + 4) : 4 * (start + 4) + 48]
        torch.testing.assert_close(drawn[:, number], inside, **CLOSE)


def test_an_image_without_guide_is_refused(model, embedding):
    with pytest.raises(ValueError, match="guide"):
        decode(model.mask_decoder, model, embedding[:1], None, PromptTensors(boxes=BOXES[None, :1]))


def test_forward_takes_images_of_any_shape(model, weights):
    image = weights.noise_image("image_rect", (3, 768, 1024))
    seen = []
    with model.image_encoder.register_forward_hook(lambda *args: seen.append(args[-1].embedding)):
        (output,) = model([SamInput(image, (600, 800), boxes=BOXES[:2])])
    answer = model.segment(seen[0], model.guide(image[None]), PromptTensors(boxes=BOXES[None, :2]))
    assert output.masks.shape == (2, 1, 600, 800)
    torch.testing.assert_close(output.logits[:, 0], answer.masks[0], **CLOSE)
    torch.testing.assert_close(output.iou[:, 0], answer.iou[0], **CLOSE)


def test_the_published_choice_leaves_out_the_last_guess(model):
    decoder = copy.deepcopy(model.mask_decoder)
    assert list(decoder.guesses()) == [1, 2, 3]
    decoder.strict = True
    assert list(decoder.guesses()) == [1, 2]


# guide


def test_edges_of_the_image_are_those_of_its_pixels(weights):
    pixels = weights.blob_image("blob_256", 256)
    guide = guide_image(pixels[None], 256, "image")
    torch.testing.assert_close(guide[0, :3], SAM_PIXELS.apply(pixels))
    drawn = cv2.Canny(np.ascontiguousarray(pixels.byte().permute(1, 2, 0).numpy()), 10, 100)
    np.testing.assert_array_equal(guide[0, 3].numpy(), drawn / 255)


@pytest.mark.parametrize("edges", ["published", "image"])
def test_guide_of_a_batch_is_that_of_each_image(edges, weights):
    pixels = torch.stack([weights.blob_image("blob_1024", 1024), weights.noise_image("wsi_low", (3, 1024, 1024))])
    together = guide_image(pixels[..., :600], 1024, edges)
    assert together.shape == (2, 4, 256, 256)
    for number, image in enumerate(pixels[..., :600]):
        torch.testing.assert_close(together[number], guide_image(image[None], 1024, edges)[0])


# training


def test_mined_points_are_reproducible_and_random(trained, model, embedding, guide):
    def cells(seed):
        generator = torch.Generator().manual_seed(seed)
        return decode(
            trained, model, embedding, guide, PromptTensors(boxes=BOXES[None].expand(2, -1, -1)), generator=generator
        )

    first, again, other = cells(1), cells(1), cells(2)
    assert torch.equal(first.cells.numbers, again.cells.numbers)
    assert torch.equal(first.decoded.mask_tokens, again.decoded.mask_tokens)
    assert not torch.equal(first.cells.numbers, other.cells.numbers)
    assert (first.cells.weights == 1).all()
    for side in first.cells.numbers.split(4, dim=-1):
        assert all(len(set(row)) == 4 for row in side.flatten(0, 1).tolist())


def test_no_points_are_mined_in_training_before_it_is_time(trained, model, embedding, guide):
    trained.prompt_adapter.mining = False
    prompts = PromptTensors(boxes=BOXES[None, :1])
    assert decode(trained, model, embedding[:1], of_image(guide, 0), prompts).cells is None
    assert decode(trained.eval(), model, embedding[:1], of_image(guide, 0), prompts).cells is not None


def mask_loss(decoder, decoded):
    vector, _ = decoder.best_vector(decoded, None)
    return decoder.masks(decoder.upscale(decoded), vector).square().mean()


def test_gradients_reach_the_adapter_through_masks_and_chosen_points(trained, model, weights):
    with torch.enable_grad():
        pixels = weights.blob_image("blob_1024", 1024)[None]
        guide = Guide(trained.guiding_conv(guide_image(pixels, 1024)), point_marks(model.prompt_encoder))
        embedding = weights.normal_input("image_embedding", (1, 256, 64, 64))
        generator = torch.Generator().manual_seed(0)
        found = decode(trained, model, embedding, guide, PromptTensors(boxes=BOXES[None, :2]), generator=generator)
        mask_loss(trained, found.decoded).backward()
    for module in (trained.prompt_adapter, trained.guiding_conv):
        for name, parameter in module.named_parameters():
            if not name.endswith("k_proj.bias"):  # adds the same to all logits, so it is left out
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.any(), name


# heads not trained yet


@pytest.fixture(scope="module")
def untrained(mobile_sam) -> PaSam:
    decoder = PaMaskDecoder()
    decoder.start_from(mobile_sam.mask_decoder)
    return assembled(mobile_sam, decoder)


@pytest.mark.parametrize("training", [False, True])
def test_an_untrained_head_answers_as_sam(training, untrained, mobile_sam, embedding):
    decoder = copy.deepcopy(untrained.mask_decoder).train(training)
    guide = untrained.guide(torch.zeros(1, 3, 1024, 1024))
    asked = embed_prompts(untrained.prompt_encoder, PromptTensors(boxes=BOXES[None]))
    image = decoder.image_side(embedding[:1], untrained.prompt_encoder.get_dense_pe()[0], asked.dense, guide)
    got, wanted = (which.decode(image, asked.sparse) for which in (decoder, mobile_sam.mask_decoder))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    ambiguous = torch.ones(1, 3, dtype=torch.bool)
    for one, other in zip(
        decoder.best_vector(got, ambiguous), mobile_sam.mask_decoder.best_vector(wanted, ambiguous), strict=True
    ):
        torch.testing.assert_close(one, other, **CLOSE)


def test_the_zeroed_layers_of_an_untrained_head_learn_at_the_first_step(untrained, model, weights):
    decoder = copy.deepcopy(untrained.mask_decoder).train()
    with torch.enable_grad():
        pixels = weights.blob_image("blob_1024", 1024)[None]
        guide = Guide(decoder.guiding_conv(guide_image(pixels, 1024)), point_marks(model.prompt_encoder))
        embedding = weights.normal_input("image_embedding", (1, 256, 64, 64))
        found = decode(decoder, model, embedding, guide, PromptTensors(boxes=BOXES[None, :1]))
        mask_loss(decoder, found.decoded).backward()
    adapter = decoder.prompt_adapter
    for last in (decoder.guiding_conv[-1], adapter.cross_attn_token_to_image.out_proj, adapter.refined_mlp.layers[-1]):
        assert last.weight.grad.any()
        assert last.bias.grad.any()


def test_a_model_that_holds_sam_is_made_to_answer_as_sam(mobile_sam):
    model = assembled(mobile_sam, PaMaskDecoder())
    model.mask_decoder.load_state_dict(mobile_sam.mask_decoder.state_dict(), strict=False)
    init_pa_head(model)
    assert not model.guide(torch.zeros(1, 3, 1024, 1024)).tokens.any()
    state = model.mask_decoder.state_dict()
    for key, value in mobile_sam.mask_decoder.state_dict().items():
        assert torch.equal(state[key], value)


def test_decoder_is_a_mask_decoder_in_bfloat16_too(model, embedding, guide):
    decoder = copy.deepcopy(model.mask_decoder).to(torch.bfloat16)
    assert isinstance(decoder, MaskDecoder)
    found = decode(decoder, model, embedding, guide, PromptTensors(boxes=BOXES[None].expand(2, -1, -1)))
    exact = decode(model.mask_decoder, model, embedding, guide, PromptTensors(boxes=BOXES[None].expand(2, -1, -1)))
    assert found.decoded.image.dtype == torch.bfloat16
    assert found.maps.coarse.dtype == torch.float32
    difference = (found.maps.refined - exact.maps.refined).abs().mean()
    assert difference < 0.05 * exact.maps.refined.abs().mean()
