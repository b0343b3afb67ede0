"""SAM-CLIP understands what its SAM encodes, finds what fits words, names regions, and is a SAM all the while."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.backbones.vit import ViTEncoder, ViTSize
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.image_text import TextEncoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.preprocess import SAM_PIXELS
from wsi_pipeline.models.registry import build_segmenter as build_segmenter_of
from wsi_pipeline.models.registry import find_model
from wsi_pipeline.models.resolve import sam_plan
from wsi_pipeline.models.roles import (
    Detections,
    InstanceSegmenter,
    PairImages,
    PromptBatch,
    Prompter,
    Recogniser,
    Refiner,
    Regions,
    Segmenter,
)
from wsi_pipeline.models.sam import VARIANTS, Sam, SamSegmenter, Variant
from wsi_pipeline.models.sam_clip.build import (
    build_recogniser,
    build_segmenter,
    build_text_prompter,
    text_encoder_of,
)
from wsi_pipeline.models.sam_clip.facts import ClipFacts, HeadShape
from wsi_pipeline.models.sam_clip.finder import TextFinder
from wsi_pipeline.models.sam_clip.head import ClipHead
from wsi_pipeline.models.sam_clip.model import SamClip
from wsi_pipeline.models.sam_clip.network import MergedSam, load_merged_sam, start_from_sam
from wsi_pipeline.models.sam_clip.plan import class_names, sam_clip_plan, text_prompts_plan
from wsi_pipeline.models.sam_clip.prompts import detections_of, pieces_of, prompts_of
from wsi_pipeline.models.sam_clip.recogniser import SamClipRecogniser
from wsi_pipeline.models.sam_clip.sight import GRID, resized_positions, tokens_of
from wsi_pipeline.vocabulary import VocabularySettings
from wsi_pipeline.workflow import (
    ModelSettings,
    RecogniseSettings,
    SegmentSettings,
    TextPlaces,
    TextPrompts,
    change_workflow,
    load_workflow,
)

WORDS = ("left", "right")
FACTS = ClipFacts(backbone="lite-medsam", teacher="none", text="table", dim=8, shape=HeadShape(depth=1), classes=WORDS)
TINY = ViTSize(dim=32, depth=2, heads=2, global_blocks=(1,))


class Pointing:
    """A text encoder whose words are axes."""

    name, dim, logit_scale, reads_sentences = "pointing", 8, 10.0, False

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.eye(self.dim)[[WORDS.index(text) for text in texts]]


def vocabulary(**more: object) -> VocabularySettings:
    return VocabularySettings.model_validate({"classes": list(WORDS)} | more)


class FakeEncoder(torch.nn.Module):
    """Its embedding is the patch's red, in the first channel left of the middle and in the second one right of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.early_channels = 160

    def forward(self, x: torch.Tensor) -> EncoderOutput:
        red = torch.nn.functional.adaptive_avg_pool2d(x[:, :1], 64)
        seen = torch.zeros(len(x), 256, 64, 64)
        seen[:, 0, :, :32], seen[:, 1, :, 32:] = red[:, 0, :, :32], red[:, 0, :, 32:]
        return EncoderOutput(seen, torch.zeros(len(x), 64, 64, 160))


class Obvious(ClipHead):
    """A head whose vectors are the first eight channels, and the third axis where there is nothing."""

    def __init__(self) -> None:
        super().__init__(416, width=64, depth=0, heads=4, out_dim=8)

    def forward(self, tokens: torch.Tensor):
        seen = tokens[..., :8].clone()
        seen[..., 2] += 0.1
        meaning = super().forward(tokens)
        unit = torch.nn.functional.normalize
        return meaning._replace(tokens=unit(seen, dim=-1), pooled=unit(seen.amax(dim=1), dim=-1))


@pytest.fixture
def obvious() -> SamClip:
    torch.manual_seed(0)
    network = MergedSam(VARIANTS["lite_medsam"], FACTS).eval()
    network.image_encoder, network.clip_head = FakeEncoder(), Obvious()
    network.logit_scale.data.fill_(math.log(20))
    return SamClip(network, Pointing())


def half_red(left: int = 255, right: int = 0) -> PairImages:
    image = np.zeros((1, 256, 256, 3), np.uint8)
    image[:, 64:192, 32:128, 0], image[:, 64:192, 128:224, 0] = left, right
    return PairImages(image)


def saved(path: Path, network: MergedSam, *, whole: bool) -> Path:
    state = network.state_dict() if whole else network.own_state()
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=network.facts.metadata())
    return path


@pytest.fixture(scope="module")
def lite() -> MergedSam:
    torch.manual_seed(1)
    return MergedSam(VARIANTS["lite_medsam"], FACTS).eval()


@pytest.fixture(scope="module")
def tiny() -> MergedSam:
    """A plain vision transformer of two blocks, on 1024 px."""
    torch.manual_seed(2)
    variant = Variant("tiny", 1024, SAM_PIXELS, frozenset({"box", "point", "mask"}), True, lambda: ViTEncoder(TINY))
    network = MergedSam(variant, FACTS.model_copy(update={"shape": HeadShape(width=32, depth=1, heads=2)})).eval()
    for name, value in network.image_encoder.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(value)
    return network


# the head


def test_published_keys_have_no_entry_and_three_layers() -> None:
    with torch.device("meta"):
        keys = ClipHead(768, out_dim=768).state_dict()
    assert {key.split(".")[0] for key in keys} == {"layers", "norm", "proj"}
    assert {key.split(".")[1] for key in keys if key.startswith("layers.")} == {"0", "1", "2"}
    assert "proj.bias" not in keys


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_vectors_have_unit_length_after_the_projection(pool: str) -> None:
    head = ClipHead(32, width=32, depth=1, heads=2, out_dim=5, pool=pool, places="together").eval()
    tokens = torch.randn(2, 3, 4, 32)
    meaning = head.on_map(tokens)
    assert meaning.tokens.shape == (2, 3, 4, 5)
    torch.testing.assert_close(meaning.tokens.norm(dim=-1), torch.ones(2, 3, 4))
    torch.testing.assert_close(meaning.pooled.norm(dim=-1), torch.ones(2))
    head.places = "alone"
    alone = head.on_map(tokens)
    torch.testing.assert_close(alone.tokens[1, 2, 3], head(tokens[1, 2, 3][None, None]).pooled[0])
    torch.testing.assert_close(alone.pooled, meaning.pooled)
    head.places = "both"
    torch.testing.assert_close(head.on_map(tokens).tokens, (meaning.tokens + alone.tokens) / 2)


def test_under_max_pooling_one_token_counts_however_many_others_there_are() -> None:
    one, other = torch.randn(2, 1, 1, 32)
    few, many = (torch.cat([one, other.expand(1, count, 32)], dim=1) for count in (1, 99))
    pooled = {}
    for pool in ("max", "mean"):
        head = ClipHead(32, width=32, depth=0, heads=2, out_dim=5, pool=pool).eval()
        pooled[pool] = head(few).pooled, head(many).pooled
    torch.testing.assert_close(*pooled["max"])
    assert not torch.allclose(*pooled["mean"])


def test_the_embedded_head_ships_in_half_a_megabyte() -> None:
    head = ClipHead(416, width=64, depth=3, heads=4, out_dim=384)
    assert 2 * sum(value.numel() for value in head.parameters()) < 500_000


# what it reads


def test_embedded_tokens_are_means_of_both_maps() -> None:
    seen = EncoderOutput(torch.randn(2, 256, 64, 64), torch.randn(2, 64, 64, 160))
    tokens = tokens_of(seen, 416)
    assert tokens.shape == (2, GRID, GRID, 416)
    torch.testing.assert_close(tokens[1, 2, 3, :256], seen.embedding[1, :, 8:12, 12:16].mean((1, 2)))
    torch.testing.assert_close(tokens[1, 2, 3, 256:], seen.early[1, 8:12, 12:16].mean((0, 1)))


def test_a_vision_transformer_gives_its_last_block_and_the_same_embedding(tiny: MergedSam) -> None:
    pixels = torch.rand(1, 3, 1024, 1024) * 255
    seen, plain = tiny.look(pixels), tiny.encode(pixels)
    assert tiny.understand(seen).tokens.shape == (1, 64, 64, 8)
    torch.testing.assert_close(seen.embedding, plain.embedding)
    torch.testing.assert_close(tiny.image_encoder.neck(tokens_of(seen, 32)), plain.embedding)


@pytest.mark.parametrize("side", [224, 336, 448])
def test_small_images_get_positions_of_the_whole_map(tiny: MergedSam, side: int) -> None:
    meaning = tiny.understand(tiny.look(torch.rand(1, 3, side, side) * 255))
    assert meaning.tokens.shape == (1, side // 16, side // 16, 8)
    assert torch.isfinite(meaning.pooled).all()


def test_positions_of_a_small_image_span_those_of_a_large_one() -> None:
    ramp = torch.arange(64.0).view(1, 1, 64, 1).expand(1, 64, 64, 1)
    small = resized_positions(ramp, (14, 14))[0, :, :, 0]
    torch.testing.assert_close(small.mean(), ramp.mean())
    assert small[0, 0] < 4
    assert small[0, -1] > 59
    assert (small.diff(dim=1) > 0).all()
    assert resized_positions(ramp, (64, 64)) is ramp


# files


def test_a_head_goes_on_the_backbone_that_it_names(tmp_path: Path, lite: MergedSam, lite_medsam: Sam) -> None:
    path = saved(tmp_path / "head.safetensors", lite, whole=False)
    plan = sam_clip_plan(ModelSettings(model="sam-clip", weights=str(path)))
    assert set(plan.files) == {"sam", "sam-clip"}
    assert plan == text_prompts_plan(TextPrompts(source="text", classes=list(WORDS), weights=str(path)))
    loaded = load_merged_sam(plan).state_dict()
    for key, value in lite.own_state().items():
        assert torch.equal(loaded[key], value)
    for key, value in lite_medsam.state_dict().items():
        assert torch.equal(loaded[key], value)


def test_a_whole_file_is_one_file_and_opens_as_a_sam(tmp_path: Path, lite: MergedSam) -> None:
    path = saved(tmp_path / "whole.safetensors", lite, whole=True)
    plan = sam_clip_plan(ModelSettings(model="sam-clip", weights=str(path)))
    assert set(plan.files) == {"sam-clip"}
    assert torch.equal(load_merged_sam(plan).clip_head.proj.weight, lite.clip_head.proj.weight)
    sam = load_sam(sam_plan(ModelSettings(model="sam", weights=str(path))))
    assert torch.equal(sam.mask_decoder.iou_token.weight, lite.mask_decoder.iou_token.weight)


def test_a_sam_initialises_all_but_the_head(tmp_path: Path, lite: MergedSam, lite_medsam: Sam) -> None:
    path = saved(tmp_path / "head.safetensors", lite, whole=False)
    plan = sam_clip_plan(ModelSettings(model="sam-clip", weights=str(path)))
    network = start_from_sam(plan, FACTS)
    assert torch.equal(network.image_encoder.neck[0].weight, lite_medsam.image_encoder.neck[0].weight)
    assert not torch.equal(network.clip_head.proj.weight, lite.clip_head.proj.weight)


def test_a_file_says_what_it_learned(tmp_path: Path, lite: MergedSam) -> None:
    path = saved(tmp_path / "head.safetensors", lite, whole=False)
    assert ClipFacts.read(path) == FACTS


def test_other_files_and_backbones_are_refused(tmp_path: Path, lite: MergedSam) -> None:
    path = saved(tmp_path / "head.safetensors", lite, whole=False)
    with pytest.raises(WeightsError, match=r"was trained on lite-medsam. Set segment.backbone to it"):
        sam_clip_plan(ModelSettings(model="sam-clip", weights=str(path), backbone="vit-b"))
    with pytest.raises(WorkflowError, match="no such backbone: vit-x"):
        text_prompts_plan(TextPrompts(source="text", classes=list(WORDS), weights=str(path), backbone="vit-x"))
    with pytest.raises(WeightsError, match="does not say what SAM-CLIP learned"):
        text_prompts_plan(TextPrompts(source="text", classes=list(WORDS), weights="nuclei-litemedsam"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, lite: MergedSam) -> str:
    """A head whose words are in its file."""
    lite.words.data.copy_(torch.eye(8)[:2])
    return str(saved(tmp_path_factory.mktemp("table") / "head.safetensors", lite, whole=False))


def test_sections_of_a_workflow_share_an_encoder(table: str) -> None:
    recogniser = build_recogniser(RecogniseSettings(model="sam-clip", weights=table))
    prompts = {"source": "text", "weights": table, "classes": ["left", "right"], "background": "left"}
    prompter = build_text_prompter(TextPrompts.model_validate(prompts))
    segmenter = build_segmenter(ModelSettings(model="sam-clip", weights=table))
    assert recogniser.encoder is prompter.encoder is segmenter.encoder
    assert recogniser.class_names == class_names(RecogniseSettings(model="sam-clip", weights=table)) == WORDS
    assert prompter.class_names == ("right",)
    assert segmenter.prompt_kinds == frozenset({"box"})


def test_words_that_nobody_reads_are_refused(table: str, lite: MergedSam) -> None:
    with pytest.raises(WorkflowError, match="the words top were not trained"):
        build_recogniser(RecogniseSettings(model="sam-clip", weights=table, classes=["left", "top"]))
    mute = MergedSam(VARIANTS["lite_medsam"], FACTS.model_copy(update={"classes": (), "text": "a clip"}))
    with pytest.raises(WorkflowError, match="which are not in its file"):
        text_encoder_of(mute)


# at work


def test_it_plays_all_its_roles(obvious: SamClip) -> None:
    assert isinstance(obvious, Segmenter)
    assert isinstance(obvious, Refiner)
    assert isinstance(SamClipRecogniser(obvious, vocabulary()), Recogniser)
    prompts = TextPrompts.model_validate({"source": "text", "classes": list(WORDS)})
    assert isinstance(TextFinder(obvious, prompts), Prompter)
    assert isinstance(Pointing(), TextEncoder)


def test_a_patch_is_encoded_once_whoever_asks(obvious: SamClip) -> None:
    before = obvious.encoder.computed
    recogniser = SamClipRecogniser(obvious, vocabulary())
    embedding = recogniser.encode(half_red())
    obvious.classify(embedding, vocabulary())
    obvious.text_map(embedding, vocabulary())
    obvious.decode(embedding, PromptBatch(np.zeros(1, np.int64), boxes=np.array([[10, 10, 90, 90]], np.float32)))
    assert obvious.encoder.computed == before + 1


def test_text_maps_show_where_a_word_fits(obvious: SamClip) -> None:
    embedding = obvious.encode(half_red(255, 255))
    text_map = obvious.text_map(embedding, vocabulary())
    assert text_map.shape == (1, 2, GRID, GRID)
    probability = obvious.probability(text_map)
    assert probability.shape == (1, 2, 256, 256)
    assert probability[0, 0, 128, 80] > 0.9 < probability[0, 1, 128, 176]
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)


def test_a_patch_is_of_the_class_it_shows(obvious: SamClip) -> None:
    for pairs, number in ((half_red(255, 0), 0), (half_red(0, 255), 1)):
        probability = obvious.classify(obvious.encode(pairs), vocabulary())
        assert probability.shape == (1, 2)
        assert probability[0, number] > 0.9


def test_regions_are_named_by_what_is_under_their_masks(obvious: SamClip) -> None:
    recogniser = SamClipRecogniser(obvious, vocabulary())
    boxes = np.array([[40, 70, 120, 180], [140, 70, 220, 180], [40, 70, 220, 180]])
    masks = [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in boxes]
    masks[2][:, :88] = False
    probability = recogniser.recognise(
        recogniser.encode(half_red(255, 255)), Regions(np.zeros(3, np.int64), boxes, masks)
    )
    assert probability.argmax(axis=1).tolist() == [0, 1, 1]
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)


def test_places_that_fit_words_have_boxes_points_and_classes(obvious: SamClip) -> None:
    settings = TextPrompts.model_validate(
        {"source": "text", "classes": list(WORDS), "background": "left", "threshold": 0.6, "min_area": "100 um2"}
    )
    (found,) = TextFinder(obvious, settings).detect(half_red(255, 255), mpp=0.5)
    assert found.classes.tolist() == [1]
    x0, y0, x1, y1 = found.boxes[0]
    np.testing.assert_allclose(found.boxes[0], [128, 64, 224, 192], atol=8)
    x, y = found.points[0]
    assert x0 < x < x1
    assert y0 < y < y1
    (none,) = TextFinder(obvious, settings.model_copy(update={"min_area": 1e6})).detect(half_red(255, 255), mpp=0.5)
    assert len(none.boxes) == 0


def test_places_are_drawn_where_they_lie(obvious: SamClip) -> None:
    settings = TextPlaces.model_validate({"classes": list(WORDS), "threshold": 0.6, "min_area": "100 um2"})
    finder = TextFinder(obvious, settings)
    assert isinstance(finder, InstanceSegmenter)
    before = obvious.encoder.computed
    (both,), (one,), none = finder.find(
        PairImages(np.concatenate([half_red(255, 255).high, half_red(0, 255).high, half_red(0, 0).high])),
        mpp=0.5,
        min_score=0,
        max_objects=9,
    )
    assert obvious.encoder.computed == before + 3
    assert sorted(both.classes.tolist()) == [1, 2]
    assert one.classes.tolist() == [2]
    for found, mask in zip(one.boxes, one.masks.on_patch(256), strict=True):
        rows, columns = np.nonzero(mask)
        assert found.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert none == []
    ((surest,),) = finder.find(half_red(255, 255), mpp=0.5, min_score=0, max_objects=1)
    assert surest.scores.tolist() == [both.scores.max()]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"segment.text.classes": ["Tumor"], "segment.text.background": None}, "segment.text"),
        ({"segment.text.classes": [], "segment.text.background": None}, "segment.text"),
        ({"prompts": {"source": "text", "classes": ["Tumor"]}}, "prompts.text"),
    ],
)
def test_what_has_nothing_to_be_told_from_is_refused(change: dict[str, object], where: str) -> None:
    with pytest.raises(WorkflowError) as refused:
        change_workflow(load_workflow("text-regions"), change)
    assert f"{where}: classes: a px is of the class that it fits best" in str(refused.value)


def test_regions_need_words(table: str) -> None:
    settings = SegmentSettings(model="sam-clip-regions", weights=table)
    with pytest.raises(WorkflowError, match=r"segment\.text: there are no words to look for"):
        find_model("sam-clip-regions").class_names(settings)


def test_regions_are_a_model_of_a_workflow(table: str) -> None:
    text = {"classes": list(WORDS), "background": "left"}
    section = {"model": "sam-clip-regions", "weights": table, "text": text}
    model = build_segmenter_of(SegmentSettings.model_validate(section), device="cpu", dtype="fp32")
    assert isinstance(model, InstanceSegmenter)
    assert model.class_names == ("right",)


def test_boxes_are_answered_as_sam_answers_them(lite_medsam: Sam, tmp_path: Path, lite: MergedSam) -> None:
    path = saved(tmp_path / "head.safetensors", lite, whole=False)
    merged = SamClip(load_merged_sam(sam_clip_plan(ModelSettings(model="sam-clip", weights=str(path)))), Pointing())
    image = np.random.default_rng(0).integers(0, 255, (1, 256, 256, 3), dtype=np.uint8)
    asked = PromptBatch(np.zeros(1, np.int64), boxes=np.array([[60, 60, 180, 150]], np.float32))
    plain = SamSegmenter(lite_medsam)
    ours, theirs = (one.decode(one.encode(PairImages(image)), asked) for one in (merged, plain))
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    assert merged.encoder is plain.encoder


# pieces


def test_pieces_are_of_one_class_and_large_enough() -> None:
    probability = np.full((2, 64, 64), 0.1, np.float32)
    probability[0] = 0.3
    probability[1, 5:20, 5:20], probability[1, 40:50, 40:50], probability[1, 60:62, 5:7] = 0.9, 0.8, 0.9
    found = pieces_of(probability, [1], threshold=0.5, min_area=10)
    assert found.classes.tolist() == [0, 0]
    np.testing.assert_allclose(found.scores, [0.9, 0.8], rtol=1e-6)
    coarse = found.coarse()
    assert ((coarse > 0) == found.masks).all()
    seen = detections_of(found, px=4)
    assert isinstance(seen, Detections)
    assert seen.boxes.tolist() == [[20, 20, 80, 80], [160, 160, 200, 200]]
    assert seen.classes.tolist() == [1, 1]


def test_peaks_are_the_surest_px_inside_their_piece() -> None:
    y, x = np.mgrid[:64, :64]
    hills = [np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 60) for cx, cy in ((15, 20), (45, 40))]
    probability = np.stack([0.55 + 0.4 * np.maximum(hills[0], 0.8 * hills[1]), np.full((64, 64), 0.2)]).astype(
        np.float32
    )
    found = pieces_of(probability, [0], threshold=0.5, min_area=0)
    xy, labels = found.peaks(2)
    assert labels.tolist() == [[1, 1]]
    assert xy[0].tolist() == [[15.5, 20.5], [45.5, 40.5]]


def test_a_flat_piece_has_its_peak_in_the_middle_and_no_room_for_many() -> None:
    probability = np.full((2, 64, 64), 0.1, np.float32)
    probability[1, 20:29, 30:39] = 0.9
    xy, labels = pieces_of(probability, [1], threshold=0.5, min_area=0).peaks(3)
    assert xy[0, 0].tolist() == [34.5, 24.5]
    assert labels.tolist() == [[1, -1, -1]]


def test_a_model_is_asked_with_what_it_takes() -> None:
    probability = np.full((2, 64, 64), 0.1, np.float32)
    probability[1, 5:20, 5:20] = 0.9
    pieces = [pieces_of(probability, wanted, threshold=0.5, min_area=0) for wanted in ([1], [], [1])]
    asked = prompts_of(pieces, frozenset({"box"}), px=4, points=2)
    assert asked.image_index.tolist() == [0, 2]
    assert asked.points is None
    assert asked.masks is None
    asked = prompts_of(pieces, frozenset({"box", "point", "mask"}), px=4, points=2)
    assert asked.masks.shape == (2, 64, 64)
    assert asked.points.shape == (2, 2, 2)


def test_outlines_are_drawn_for_all_pieces(obvious: SamClip) -> None:
    embedding = obvious.encode(half_red(255, 255))
    pieces = obvious.pieces(obvious.text_map(embedding, vocabulary()), [0, 1], threshold=0.6, min_area=50)
    masks = obvious.outline(embedding, pieces)
    assert len(masks) == sum(map(len, pieces)) == 2
    nothing = obvious.pieces(obvious.text_map(embedding, vocabulary()), [], threshold=0.6, min_area=50)
    assert len(obvious.outline(embedding, nothing)) == 0
