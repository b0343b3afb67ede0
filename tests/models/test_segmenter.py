"""The segmenters' promises: windows, batches, padding, precision, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import PromptError
from wsi_pipeline.models.collected import BACKGROUND_LOGIT
from wsi_pipeline.models.hq_sam import HqSam, HqSamSegmenter
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.models.roles import PairImages, PromptBatch, Refiner, Segmenter
from wsi_pipeline.models.sam import SamSegmenter
from wsi_pipeline.models.segmenter import PairEmbedding
from wsi_pipeline.models.windows import CELLS, Windows
from wsi_pipeline.models.wsi_sam import DualDecoder, WsiSam, WsiSamSegmenter

# in the middle, on two borders, in a corner, tiny, larger than half the patch, the whole patch; shares of the side
BOXES = np.array(
    [
        (0.40, 0.45, 0.47, 0.50),
        (0.00, 0.30, 0.06, 0.42),
        (0.48, 0.95, 0.56, 1.00),
        (0.97, 0.97, 1.00, 1.00),
        (0.611, 0.213, 0.613, 0.215),
        (0.10, 0.20, 0.75, 0.60),
        (0.00, 0.00, 1.00, 1.00),
    ],
    np.float32,
)


@pytest.fixture(scope="module")
def embedding(weights):
    """Two made-up pairs in the place of encoded ones."""
    high = EncoderOutput(
        weights.normal_input("image_embedding_batch2", (2, 256, 64, 64)),
        weights.normal_input("interm_embedding_160_batch2", (2, 64, 64, 160)),
    )
    low = EncoderOutput(weights.normal_input("low_embedding_batch2", (2, 256, 64, 64)), high.early)
    return PairEmbedding(high, low, 2.0)


@pytest.fixture(scope="module")
def wsi_lite(lite_medsam, wsi_tiny):
    """WSI-SAM on 256 px patches, with decoders that are not trained but busy."""
    wsi = WsiSam(lite_medsam.variant).eval()
    wsi.sam.load_state_dict(lite_medsam.state_dict())
    wsi.high.load_state_dict(wsi_tiny.high.state_dict())
    wsi.low.load_state_dict(wsi_tiny.low.state_dict())
    return wsi


def segmenter_of(name, request):
    model = request.getfixturevalue(name)
    kinds = {WsiSam: WsiSamSegmenter, HqSam: HqSamSegmenter}
    return kinds.get(type(model), SamSegmenter)(model)


def boxes_on(segmenter, images):
    boxes = BOXES * segmenter.input_size
    return PromptBatch(np.resize(np.asarray(images, np.int64), len(boxes)), boxes=boxes)


def take(prompts, rows):
    """Some of the prompts."""
    fields = ("boxes", "points", "point_labels", "masks")
    picked = {name: None if getattr(prompts, name) is None else getattr(prompts, name)[rows] for name in fields}
    return PromptBatch(prompts.image_index[rows], **picked)


def whole(answer, size):
    """(N, size, size) logits with the background filled in."""
    full = np.full((len(answer), size, size), BACKGROUND_LOGIT, np.float32)
    h, w = answer.logits.shape[1:]
    for canvas, logits, (x, y) in zip(full, answer.logits, answer.origin, strict=True):
        canvas[y : y + h, x : x + w] = logits
    return full


def assert_same(left, right, size, tolerance=2e-5):
    np.testing.assert_allclose(whole(left, size), whole(right, size), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(left.iou, right.iou, rtol=tolerance, atol=tolerance)


MODELS = ["lite_medsam", "mobile_sam", "hq_tiny", "wsi_lite", "wsi_tiny"]


@pytest.mark.parametrize(("name", "margin"), [("lite_medsam", 0.0), *((name, 0.3) for name in MODELS)])
def test_windows_show_what_the_whole_decode_shows_there_and_background_elsewhere(name, margin, request, embedding):
    segmenter = segmenter_of(name, request)
    prompts = boxes_on(segmenter, [0])
    size = segmenter.input_size
    full = segmenter.decode(embedding, prompts)
    assert full.logits.shape == (len(prompts), size, size)
    answer = segmenter.decode(embedding, prompts, margin=margin)
    np.testing.assert_allclose(answer.iou, full.iou, rtol=2e-5, atol=2e-6)
    assert (answer.origin >= 0).all()
    assert (answer.origin + answer.logits.shape[-1] <= size).all()
    windows, cell = Windows.around(prompts.boxes, margin, size), size // CELLS
    for row, drawn in enumerate(whole(answer, size)):
        (x, y), side = windows.start[row] * cell, windows.side[row] * cell
        inside = np.s_[y : y + side, x : x + side]
        np.testing.assert_allclose(drawn[inside], full.logits[row][inside], rtol=2e-5, atol=2e-5)
        drawn[inside] = BACKGROUND_LOGIT
        assert (drawn == BACKGROUND_LOGIT).all()


@pytest.mark.parametrize("name", ["lite_medsam", "wsi_lite"])
def test_a_small_object_costs_a_small_answer(name, request, embedding):
    segmenter = segmenter_of(name, request)
    answer = segmenter.decode(embedding, take(boxes_on(segmenter, [1]), [0]), margin=0.25)
    assert answer.logits.shape == (1, 32, 32)


@pytest.mark.parametrize("name", ["mobile_sam", "wsi_lite"])
def test_images_in_one_batch_do_not_change_each_other_by_a_bit(name, request, embedding):
    segmenter = segmenter_of(name, request)
    prompts = boxes_on(segmenter, [0, 1])
    together = segmenter.decode(embedding, prompts, margin=0.25)
    for image in (0, 1):
        rows = np.flatnonzero(prompts.image_index == image)
        alone = segmenter.decode(embedding, take(prompts, rows), margin=0.25)
        np.testing.assert_array_equal(whole(together, segmenter.input_size)[rows], whole(alone, segmenter.input_size))
        np.testing.assert_array_equal(together.iou[rows], alone.iou)


@pytest.mark.parametrize("name", ["mobile_sam", "wsi_tiny"])
def test_many_images_at_once_equal_each_alone(name, request, embedding):
    segmenter = segmenter_of(name, request)
    prompts = boxes_on(segmenter, [0, 1])
    one_by_one = segmenter.decode(embedding, take(prompts, slice(0, 4)))
    segmenter._images_per_call = 16
    at_once = segmenter.decode(embedding, take(prompts, slice(0, 4)))
    assert_same(one_by_one, at_once, 1024)


def mixed_points(size):
    """Prompts of one, two and three points as one batch, filled up with label -1."""
    points = np.array(
        [
            [(0.2, 0.3), (0.0, 0.0), (0.9, 0.9)],
            [(0.5, 0.6), (0.7, 0.2), (0.1, 0.1)],
            [(0.5, 0.1), (0.4, 0.8), (0.8, 0.8)],
        ],
        np.float32,
    )
    labels = np.array([[1, -1, -1], [1, 0, -1], [1, 1, 0]])
    return PromptBatch(np.array([0, 1, 0]), points=points * size, point_labels=labels)


@pytest.mark.parametrize(("name", "with_box"), [("mobile_sam", False), ("mobile_sam", True), ("wsi_tiny", False)])
def test_padding_points_change_nothing(name, with_box, request, embedding):
    segmenter = segmenter_of(name, request)
    padded = mixed_points(1024)
    boxes = BOXES[[0, 1, 5]] * 1024 if with_box else None
    padded = PromptBatch(padded.image_index, boxes=boxes, points=padded.points, point_labels=padded.point_labels)
    together = segmenter.decode(embedding, padded)
    for row in range(3):
        used = padded.point_labels[row] != -1
        alone = PromptBatch(
            padded.image_index[[row]],
            boxes=None if boxes is None else boxes[[row]],
            points=padded.points[[row]][:, used],
            point_labels=padded.point_labels[[row]][:, used],
        )
        np.testing.assert_allclose(
            segmenter.decode(embedding, alone).logits[0], together.logits[row], rtol=2e-5, atol=2e-5
        )


def test_single_point_gets_the_guess_with_the_largest_predicted_iou(mobile_sam, embedding):
    segmenter = SamSegmenter(mobile_sam)
    answer = segmenter.decode(embedding, mixed_points(1024))
    for row, (count, image) in enumerate([(1, 0), (2, 1), (3, 0)]):
        prompts = mixed_points(1024)
        points = torch.from_numpy(prompts.points[[row], :count])
        labels = torch.from_numpy(prompts.point_labels[[row], :count])
        sparse, dense = mobile_sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        one = embedding.high.embedding[[image]]
        _, iou = mobile_sam.mask_decoder(one, mobile_sam.prompt_encoder.get_dense_pe(), sparse, dense, count == 1)
        np.testing.assert_allclose(answer.iou[row], iou.max().numpy(), rtol=1e-5)


@pytest.mark.parametrize("multimask", [True, False])
def test_multimask_gives_every_prompt_the_best_guess_or_none(multimask, mobile_sam, embedding):
    segmenter = SamSegmenter(mobile_sam, multimask=multimask)
    prompts = boxes_on(segmenter, [0, 1])
    answer = segmenter.decode(embedding, prompts)
    sparse, dense = mobile_sam.prompt_encoder(points=None, boxes=torch.from_numpy(prompts.boxes[:1]), masks=None)
    position = mobile_sam.prompt_encoder.get_dense_pe()
    _, iou = mobile_sam.mask_decoder(embedding.high.embedding[:1], position, sparse, dense, multimask)
    np.testing.assert_allclose(answer.iou[0], iou.max().numpy(), rtol=1e-5)


def test_a_model_without_guesses_gives_the_single_mask(lite_medsam, embedding):
    prompts = boxes_on(SamSegmenter(lite_medsam), [0])
    asked, single = (SamSegmenter(lite_medsam, multimask=m).decode(embedding, prompts) for m in (True, False))
    np.testing.assert_array_equal(asked.logits, single.logits)


def test_mask_prompts_are_batched_as_each_alone(mobile_sam, hq_tiny, wsi_tiny, embedding, weights):
    masks = weights.uniform_input("coarse", (3, 256, 256), -8, 8).numpy()
    prompts = PromptBatch(np.array([0, 1, 0]), boxes=BOXES[[0, 5, 1]] * 1024, masks=masks)
    for segmenter in (SamSegmenter(mobile_sam), HqSamSegmenter(hq_tiny), WsiSamSegmenter(wsi_tiny)):
        together = segmenter.decode(embedding, prompts, margin=0.5)
        for row in range(3):
            alone = segmenter.decode(embedding, take(prompts, [row]), margin=0.5)
            full = whole(together, 1024)[[row]]
            np.testing.assert_allclose(whole(alone, 1024), full, rtol=2e-5, atol=2e-5)


def test_prompts_of_other_kinds_are_refused(lite_medsam, embedding):
    segmenter = SamSegmenter(lite_medsam)
    with pytest.raises(PromptError, match=r"not trained for point prompts.*Use box prompts"):
        segmenter.decode(embedding, mixed_points(256))
    with pytest.raises(PromptError, match="needs a box"):
        segmenter.decode(embedding, PromptBatch(np.zeros(1, np.int64)))


@pytest.mark.parametrize("box", [(-90, -80, -20, -10), (300, 20, 400, 90), (-50, 40, 30, 90), (20, 20, 20, 20)])
def test_a_prompt_outside_the_patch_or_of_no_size_is_answered_and_harms_no_other(lite_medsam, embedding, box):
    segmenter = SamSegmenter(lite_medsam)
    inside = np.array([[40, 40, 90, 80]], np.float32)
    boxes = np.concatenate([np.array([box], np.float32), inside])
    both = segmenter.decode(embedding, PromptBatch(np.zeros(2, np.int64), boxes=boxes), margin=0.5)
    assert np.isfinite(both.logits).all()
    assert (both.origin >= 0).all()
    alone = segmenter.decode(embedding, PromptBatch(np.zeros(1, np.int64), boxes=inside), margin=0.5)
    np.testing.assert_allclose(whole(both, 256)[1], whole(alone, 256)[0], rtol=2e-5, atol=2e-5)


def test_no_prompts_give_no_masks(lite_medsam, embedding):
    nothing = PromptBatch(np.zeros(0, np.int64), boxes=np.zeros((0, 4), np.float32))
    answer = SamSegmenter(lite_medsam).decode(embedding, nothing, margin=0.2)
    assert len(answer) == len(answer.origin) == len(answer.iou) == 0


def test_refining_asks_with_the_box_of_the_mask_and_keeps_empty_masks_empty(lite_medsam, embedding):
    segmenter = SamSegmenter(lite_medsam)
    coarse = np.full((2, 256, 256), -4, np.float32)
    coarse[0, 30:61, 100:141] = 3
    refined = segmenter.refine(embedding, coarse, np.array([1, 0]))
    box = PromptBatch(np.array([1]), boxes=np.array([[100, 30, 141, 61]], np.float32))
    asked = segmenter.decode(embedding, box)
    np.testing.assert_allclose(refined.logits[0], asked.logits[0], rtol=2e-5, atol=2e-5)
    assert (refined.logits[1] == BACKGROUND_LOGIT).all()
    assert refined.iou[1] == 0


def test_segmenters_play_their_roles(lite_medsam, hq_tiny, wsi_lite):
    for segmenter in (SamSegmenter(lite_medsam), HqSamSegmenter(hq_tiny), WsiSamSegmenter(wsi_lite)):
        assert isinstance(segmenter, Segmenter)
        assert isinstance(segmenter, Refiner)


@pytest.fixture(scope="module")
def ellipses(weights):
    """Two (256, 256, 3) uint8 images."""
    image = weights.blob_image("blob_256", 256).permute(1, 2, 0).numpy().astype(np.uint8)
    return np.stack([image, image[:, ::-1]])


@pytest.mark.slow
def test_patches_are_encoded_as_if_alone(lite_medsam, ellipses):
    segmenter = SamSegmenter(lite_medsam)
    both = segmenter.encode(PairImages(ellipses))
    alone = segmenter.encode(PairImages(ellipses[1:]))
    assert torch.equal(both.high.embedding[1:], alone.high.embedding)


@pytest.mark.slow
def test_half_precision_finds_the_same_ellipse(wsi_lite, ellipses, weights):
    """bfloat16 inside, float32 outside; LiteMedSAM's mask through the window that the pipeline uses."""
    box = PromptBatch(np.zeros(1, np.int64), boxes=np.array([[48, 84, 188, 192]], np.float32))
    segmenter = SamSegmenter(wsi_lite.sam, dtype=torch.bfloat16)
    answer = segmenter.decode(segmenter.encode(PairImages(ellipses[:1])), box, margin=0.1)
    assert answer.logits.dtype == answer.iou.dtype == np.float32
    found, truth = whole(answer, 256)[0] > 0, weights.blob_mask(256).numpy()
    assert (found & truth).sum() / (found | truth).sum() > 0.98
    pair = WsiSamSegmenter(wsi_lite, dtype=torch.bfloat16)
    logits = pair.decode(pair.encode(PairImages(ellipses[:1], ellipses[:1])), box, margin=0.1).logits
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert next(wsi_lite.parameters()).dtype == torch.float32


def test_wrong_patches_are_refused(lite_medsam, wsi_lite, ellipses):
    with pytest.raises(ValueError, match="256, 256, 3"):
        SamSegmenter(lite_medsam).encode(PairImages(np.zeros((1, 128, 128, 3), np.uint8)))
    with pytest.raises(ValueError, match="low"):
        WsiSamSegmenter(wsi_lite).encode(PairImages(ellipses))


def test_every_tensor_of_the_high_quality_branch_can_be_trained(wsi_tiny, weights):
    with torch.enable_grad():
        both = DualDecoder(wsi_tiny.high, wsi_tiny.low)
        both.zero_grad()
        embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1))
        early = torch.randn(1, 64, 64, 160, generator=torch.Generator().manual_seed(2))
        asked = embed_prompts(wsi_tiny.sam.prompt_encoder, PromptTensors(boxes=torch.tensor([[[90.0, 80, 700, 600]]])))
        position = wsi_tiny.sam.prompt_encoder.get_dense_pe()[0]
        pair = both.prepare(EncoderOutput(embedding, early), embedding, position, (asked.dense, asked.dense))
        both(pair, asked, asked).masks.square().mean().backward()
        branch = ("hf_", "compress_vit_feat", "embedding_")
        grads = {key: p.grad for key, p in both.high.named_parameters() if key.startswith(branch)}
        assert len(grads) == 25
        assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in grads.values())
        both.zero_grad(set_to_none=True)
