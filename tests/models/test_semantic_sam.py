"""Semantic-SAM answers clicks and boxes at the granularity that is asked for, whatever else is asked at once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file
from torch.nn import functional as F

from wsi_pipeline.errors import PromptError, WeightsError, WorkflowError
from wsi_pipeline.models.collected import BACKGROUND_LOGIT
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.roles import PairImages, PromptBatch, Recogniser, Regions, Segmenter
from wsi_pipeline.models.semantic_sam import build, model, official, segmenter, swin
from wsi_pipeline.models.semantic_sam.answers import BOX, POINT, Features
from wsi_pipeline.models.semantic_sam.asking import Asked
from wsi_pipeline.models.semantic_sam.decoder import Judged, draw, draw_at
from wsi_pipeline.models.semantic_sam.ellipses import EllipseHead, ellipses_at
from wsi_pipeline.models.semantic_sam.file import SemanticFacts, load_semantic_sam
from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam
from wsi_pipeline.models.semantic_sam.plan import class_names, semantic_files, semantic_plan
from wsi_pipeline.models.semantic_sam.positions import inverse_sigmoid
from wsi_pipeline.models.semantic_sam.recogniser import SemanticRecogniser
from wsi_pipeline.models.semantic_sam.segmenter import Said, SemanticSegmenter
from wsi_pipeline.models.semantic_sam.settings import SemanticSettings
from wsi_pipeline.workflow import RecogniseSettings, SegmentSettings

SMALL = SemanticSettings(width=32, layers=2, heads=2, points=2, ffn=32)
LEVELS = (4, 2, 0, 5, 1, 3)
SIZE = 256


def seen(images: int = 1) -> EncoderOutput:
    generator = torch.Generator().manual_seed(1)
    return EncoderOutput(
        torch.randn(images, 256, 64, 64, generator=generator), torch.randn(images, 64, 64, 8, generator=generator)
    )


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Boxes of a network that was not trained stay where they are."""
    torch.nn.init.normal_(network.decoder.bbox_embed.layers[-1].weight, std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> MiniSemanticSam:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(MiniSemanticSam(SMALL, 8))


@pytest.fixture(scope="module")
def asked(network) -> SemanticSegmenter:
    """A segmenter whose encoder sees the same on every patch but for its brightness."""

    def see(images: np.ndarray) -> EncoderOutput:
        light = torch.from_numpy(images).float().mean(dim=(1, 2, 3)) / 255
        base = seen()
        return EncoderOutput(base.embedding + light[:, None, None, None], base.early.expand(len(images), -1, -1, -1))

    return SemanticSegmenter(network, see, SIZE, LEVELS, device=torch.device("cpu"))


def patches(*light: int) -> PairImages:
    return PairImages(np.stack([np.full((SIZE, SIZE, 3), value, np.uint8) for value in light]))


def clicks(n: int, images: int = 1, **more) -> PromptBatch:
    random = np.random.default_rng(n)
    return PromptBatch(
        np.sort(random.integers(images, size=n)),
        points=random.uniform(0, SIZE, (n, 1, 2)).astype(np.float32),
        point_labels=np.ones((n, 1), np.int64),
        **more,
    )


def test_it_plays_a_segmenter(asked):
    assert isinstance(asked, Segmenter)
    assert asked.n_guesses == 6
    assert asked.prompt_kinds == {"box", "point"}


@pytest.mark.parametrize("kind", [POINT, BOX])
def test_a_prompt_alone_and_among_200_is_answered_alike(kind, network):
    features = network.features(seen())
    boxes, kinds = torch.rand(1, 200, 4), torch.full((1, 200), kind)
    (together,) = network.decode(features, boxes, kinds)
    (alone,) = network.decode(features, boxes[:, 77:78], kinds[:, :1])
    torch.testing.assert_close(together.masks[:, 77:78], alone.masks, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.quality[:, 77:78], alone.quality, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.boxes[:, 77:78], alone.boxes, rtol=1e-4, atol=1e-4)


def test_the_size_of_a_click_does_not_count(network):
    features, kinds = network.features(seen()), torch.full((1, 1), POINT)
    (small,) = network.decode(features, torch.tensor([[[0.5, 0.5, 0, 0]]]), kinds)
    (large,) = network.decode(features, torch.tensor([[[0.5, 0.5, 0.9, 0.9]]]), kinds)
    assert torch.equal(small.masks, large.masks)


def test_masks_at_places_are_those_that_are_drawn(network):
    features = network.features(seen())
    (judged,) = network.judge(features, torch.rand(1, 3, 4), torch.full((1, 3), BOX))
    places = (torch.tensor([[40, 7], [99, 121]]) + 0.5) / 128
    drawn = draw(features, judged.vectors)[..., [7, 121], [40, 99]]
    torch.testing.assert_close(
        draw_at(features, judged.vectors, places.expand(1, 3, -1, -1)), drawn, rtol=1e-4, atol=1e-4
    )


def test_an_ellipse_begins_as_the_one_through_the_corners_of_its_box():
    head = EllipseHead(32)
    quadric = head.quadrics(torch.randn(1, 32), torch.tensor([[0.5, 0.4, 0.2, 0.4]]))
    corner, just_outside, middle, far = torch.tensor([[0.6, 0.6], [0.605, 0.6], [0.5, 0.4], [0.0, 0.0]])
    logits = ellipses_at(quadric, torch.stack([corner, just_outside, middle, far]))[0]
    assert logits[0].abs() < 1e-4
    assert logits[1] < 0
    assert logits[2] > 0
    assert logits[3] == -20


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_an_ellipse_is_where_it_was_moved_and_convex(numbers, x, y):
    head = EllipseHead(32)
    with torch.no_grad():
        head.bias.copy_(torch.tensor(numbers))
    right, down = numbers[1:3]
    middle = torch.tensor([x + 0.3 * right, y + 0.2 * down])
    around = middle + 0.05 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    quadric = head.quadrics(torch.zeros(1, 32), torch.tensor([[x, y, 0.3, 0.2]]))
    logits = ellipses_at(quadric, torch.cat([middle[None], around]))[0]
    assert (logits[1:] < logits[0]).all()


def test_every_layer_answers_where_all_are_wanted_and_learns(network):
    answers = network.decode(network.features(seen(2)), torch.rand(2, 3, 4), torch.full((2, 3), BOX), every_layer=True)
    assert [one.masks.shape for one in answers] == [(2, 3, 6, 128, 128)] * SMALL.layers
    assert answers[0].objects is None
    assert answers[0].parts is None
    with torch.enable_grad():
        fresh = MiniSemanticSam(SMALL, 8)
        learned = fresh.decode(fresh.features(seen()), torch.rand(1, 3, 4), torch.full((1, 3), POINT), every_layer=True)
        sum(one.masks.sum() + one.quality.sum() + one.boxes.sum() for one in learned).backward()
    unused = {name for name, value in fresh.named_parameters() if value.grad is None}
    assert not unused


def test_objects_and_parts_have_heads_of_their_own():
    named = MiniSemanticSam(SMALL.model_copy(update={"objects": ("gland", "vessel"), "parts": ("lumen",)}), 8)
    (answers,) = named.decode(named.features(seen()), torch.rand(1, 4, 4), torch.full((1, 4), POINT))
    assert answers.objects.shape == (1, 4, 6, 2)
    assert answers.parts.shape == (1, 4, 6, 1)


def test_guesses_come_level_by_level_and_a_level_is_one_of_them(asked):
    embedding, levels = asked.encode(patches(0)), np.array([1, 6, 3, 2, 5, 4])
    everything = asked.decode(embedding, clicks(6), guesses=True)
    one_each = asked.decode(embedding, clicks(6, levels=levels))
    rows = 6 * np.arange(6) + levels - 1
    np.testing.assert_array_equal(one_each.logits, everything.logits[rows])
    np.testing.assert_array_equal(one_each.iou, everything.iou[rows])


def test_levels_are_those_that_the_file_names(asked, network):
    answer = asked.decode(asked.encode(patches(0)), clicks(1, levels=np.array([2])))
    place = torch.from_numpy(clicks(1).points[:, 0]) / SIZE
    (answers,) = network.decode(network.features(seen()), F.pad(place, (0, 2)).unsqueeze(0), torch.full((1, 1), POINT))
    enlarged = F.interpolate(answers.masks[0], (SIZE, SIZE), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(answer.logits[0], enlarged[0, LEVELS[1]].numpy(), atol=1e-4)
    dice = answers.quality[0, 0, LEVELS[1]].item()
    assert answer.iou[0] == pytest.approx(dice / (2 - dice), rel=1e-4)


def nested() -> tuple[Features, Judged]:
    """Squares of a sixth to all of an image, the smallest least surely."""
    masks = torch.full((1, 6, 12, 12), -1.0)
    for number in range(6):
        masks[0, number, : 2 * number + 2, : 2 * number + 2] = 1
    vectors = torch.eye(6).expand(1, 1, 6, 6)
    return Features(masks, masks, ()), Judged(vectors, torch.linspace(0.1, 0.6, 6).view(1, 1, 6), vectors, None, None)


@pytest.mark.parametrize(
    ("points", "labels", "best"),
    [
        ([], [], 5),
        ([(0.3, 0.3)], [1], 5),
        ([(0.3, 0.3), (0.6, 0.6)], [1, 0], 2),
        ([(0.3, 0.3), (0.9, 0.9)], [1, 0], 4),
        ([(0.3, 0.3), (0.6, 0.6)], [1, -1], 5),
    ],
)
def test_the_surest_answer_that_suits_all_points_is_given(points, labels, best):
    features, judged = nested()
    where, said = torch.tensor(points).view(1, 1, -1, 2), torch.tensor(labels, dtype=torch.long).view(1, 1, -1)
    prompts = Asked(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long), where, said, None)
    assert prompts.best(judged, features).item() == best
    assert (draw(features, judged.vectors)[0, 0, best] > 0).sum() == (2 * best + 2) ** 2


def test_windows_show_what_is_there_of_the_whole(asked):
    embedding = asked.encode(patches(0))
    boxes = np.array([[20, 30, 60, 70], [150, 140, 250, 230]], np.float32)
    prompts = PromptBatch(np.zeros(2, np.int64), boxes=boxes, levels=np.array([1, 4]))
    whole, cut = asked.decode(embedding, prompts), asked.decode(embedding, prompts, margin=0.25)
    side = cut.logits.shape[-1]
    assert side < SIZE
    for row, (x, y) in enumerate(cut.origin):
        inside = whole.logits[row, y : y + side, x : x + side]
        own = cut.logits[row] != BACKGROUND_LOGIT
        np.testing.assert_allclose(cut.logits[row][own], inside[own], atol=1e-4)
    x0, y0, x1, y1 = boxes[0].astype(int) - np.tile(cut.origin[0], 2)
    assert (cut.logits[0, y0:y1, x0:x1] != BACKGROUND_LOGIT).all()
    assert (cut.logits[0] == BACKGROUND_LOGIT).any()


def test_answers_come_in_the_order_of_prompts_on_several_patches(asked):
    prompts = clicks(4, images=3)
    together = asked.decode(asked.encode(patches(0, 90, 200)), prompts)
    for row in range(4):
        alone = PromptBatch(np.zeros(1, np.int64), points=prompts.points[[row]], point_labels=np.ones((1, 1), np.int64))
        answer = asked.decode(asked.encode(patches((0, 90, 200)[prompts.image_index[row]])), alone)
        np.testing.assert_allclose(together.logits[row], answer.logits[0], atol=1e-4)


def test_many_clicks_are_answered_in_bounded_calls(asked, monkeypatch):
    sizes, looked = [], []
    judge, values = asked._network.judge, asked._network.decoder.values
    monkeypatch.setattr(asked._network, "judge", lambda *given: sizes.append(given[1].shape[1]) or judge(*given))
    monkeypatch.setattr(asked._network.decoder, "values", lambda one: looked.append(1) or values(one))
    answers = asked.decode(asked.encode(patches(0)), clicks(150))
    assert len(answers) == sum(sizes) == 150
    assert max(sizes) <= 64
    assert len(looked) == 1


def test_no_prompts_have_no_answers(asked):
    assert len(asked.decode(asked.encode(patches(0)), clicks(0))) == 0


def test_prompts_that_it_does_not_take_are_refused(asked):
    embedding, one = asked.encode(patches(0)), np.zeros(1, np.int64)
    outside = PromptBatch(one, points=np.ones((1, 1, 2), np.float32), point_labels=np.zeros((1, 1), np.int64))
    with pytest.raises(PromptError, match="a box or a point inside"):
        asked.decode(embedding, outside)
    with pytest.raises(PromptError, match="takes no masks"):
        asked.decode(embedding, PromptBatch(one, masks=np.zeros((1, 256, 256), np.float32)))


def test_heads_have_to_share_the_width():
    with pytest.raises(ValidationError, match="5 heads cannot share a width of 128"):
        SemanticSettings(heads=5)


@given(st.floats(1e-4, 1 - 1e-4))
def test_shares_survive_being_taken_apart(share):
    assert inverse_sigmoid(torch.tensor(share)).sigmoid().item() == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("size", [SIZE, 300])
def test_cells_are_covered_as_far_as_regions_reach(size):
    recogniser = SemanticRecogniser(SimpleNamespace(input_size=size, encoder=None), ("a",), (0,), parts=False)
    mask = np.zeros((60, 40), bool)
    mask[:, :30] = True
    boxes = np.array([[10, 20, 50, 80], [0, 0, 1, 1]])
    covered = recogniser._covered(Regions(np.zeros(2, np.int64), boxes, [mask, np.ones((1, 1), bool)]), 128)
    assert covered.sum(dim=(1, 2)).numpy() * (size / 128) ** 2 == pytest.approx([1800, 1])
    rows, columns = np.nonzero(covered[0].numpy())
    scale = 128 / size
    assert (rows.min(), columns.min()) == (int(20 * scale), int(10 * scale))
    assert (rows.max(), columns.max()) == (int(79 * scale), int(39 * scale))


@pytest.fixture
def backbone(monkeypatch, lite_medsam):
    """The backbone is read once for all tests."""
    monkeypatch.setattr(build, "load_sam", lambda plan: lite_medsam)


NAMED = SMALL.model_copy(update={"objects": ("gland", "vessel", "nerve"), "parts": ("lumen", "wall")})


def named_file(folder: Path) -> Path:
    network = MiniSemanticSam(NAMED, 160)
    torch.nn.init.normal_(network.decoder.object_head.weight)
    return write(
        folder / "semantic-sam.safetensors",
        network,
        SemanticFacts(backbone="lite-medsam", settings=NAMED, levels=LEVELS).metadata(),
    )


@pytest.mark.parametrize("alike", range(6))
def test_a_region_is_what_the_answer_most_like_it_is(alike):
    features, judged = nested()
    said = Said(np.zeros((1, 1), np.int64), None, features, judged._replace(parts=torch.eye(6).view(1, 1, 6, 6)))
    asked = SimpleNamespace(ask=lambda *given: iter([said]), input_size=24, encoder=None)
    recogniser = SemanticRecogniser(asked, ("one", "all"), (alike, 0 if alike else 1), parts=True)
    side = 4 * alike + 3
    region = Regions(np.zeros(1, np.int64), np.array([[0, 0, side, side]]), [np.ones((side, side), bool)])
    told = recogniser.recognise(None, region)
    np.testing.assert_allclose(told, torch.tensor([[1.0, 0.0]]).softmax(dim=-1), rtol=1e-5)


def test_objects_are_named_by_default_and_parts_where_they_are_asked_for(tmp_path):
    path = str(named_file(tmp_path))
    assert class_names(RecogniseSettings(model="semantic-sam", weights=path)) == NAMED.objects
    assert class_names(SegmentSettings(model="semantic-sam", weights=path)) == ()
    mixed = RecogniseSettings(model="semantic-sam", weights=path, classes=["gland", "lumen"])
    with pytest.raises(WorkflowError, match="gland, vessel, nerve; or lumen, wall"):
        build.build_recogniser(mixed)


FACTS = SemanticFacts(backbone="lite-medsam", settings=SMALL, levels=LEVELS)


def write(path: Path, network: MiniSemanticSam, metadata: dict[str, str]) -> Path:
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path, metadata=metadata)
    return path


def test_a_file_says_what_it_is_and_holds_it(tmp_path, network):
    path = write(tmp_path / "semantic-sam.safetensors", network, FACTS.metadata())
    assert SemanticFacts.read(path) == FACTS
    read = load_semantic_sam(path)
    assert read.settings == SMALL
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in read.state_dict().items())


def _changed(**values: object) -> dict[str, str]:
    return {"semantic-sam": json.dumps(FACTS.model_dump(mode="json") | values)}


NOT_OURS = [
    {"lora-sam": FACTS.model_dump_json()},
    {"semantic-sam": "{"},
    _changed(levels=[0, 1, 2]),
    _changed(levels=[0, 1, 2, 3, 4, 4]),
    _changed(levels=7),
    _changed(settings="{"),
]


@pytest.mark.parametrize("metadata", NOT_OURS)
def test_a_file_of_something_else_is_refused(metadata, tmp_path, network):
    path = write(tmp_path / "other.safetensors", network, metadata)
    with pytest.raises(WeightsError, match="does not say what Semantic-SAM learned"):
        semantic_plan(SegmentSettings(model="semantic-sam", weights=str(path)))


def test_a_trained_file_answers_and_names_on_its_backbone(tmp_path, backbone):
    path = str(named_file(tmp_path))
    settings = RecogniseSettings(model="semantic-sam", weights=path, classes=["nerve", "gland"])
    made = build.build_segmenter(SegmentSettings(model="semantic-sam", weights=path))
    recogniser = build.build_recogniser(settings)
    assert isinstance(recogniser, Recogniser)
    assert recogniser.encoder is made.encoder
    assert recogniser.class_names == class_names(settings) == ("nerve", "gland")
    embedding = made.encode(patches(120))
    assert made.decode(embedding, clicks(2), guesses=True).logits.shape == (12, SIZE, SIZE)
    regions = Regions(np.zeros(3, np.int64), np.array([[40, 40, 120, 120]] * 3), [np.ones((80, 80), bool)] * 3)
    told = recogniser.recognise(embedding, regions)
    assert told.shape == (3, 2)
    np.testing.assert_allclose(told.sum(axis=1), 1, rtol=1e-5)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A published file of a network that is small, and what is in it."""
    monkeypatch.setitem(swin.SWIN_SIZES, "swin-t", swin.SwinSize(32, (1, 1, 2, 1), 1, 4))
    monkeypatch.setattr(official, "_BACKBONES", {32: "swin-t"})
    monkeypatch.setattr(model, "_ENCODER_LAYERS", 1)
    monkeypatch.setattr(model, "_DECODER_LAYERS", 1)
    monkeypatch.setattr(segmenter, "PUBLISHED_SIZE", 64)
    head = "sem_seg_head.predictor."
    state = {}
    for key, value in lively(model.SemanticSam("swin-t")).state_dict().items():
        part, _, rest = key.partition(".")
        nested_in = "decoder." if rest.startswith(("layers.", "ref_point_head.")) else ""
        if part == "decoder" and rest.startswith("norm."):
            state[f"{head}decoder_{rest}"] = state[f"{head}decoder.{rest}"] = value
        elif part == "decoder" and rest.startswith("bbox_embed."):
            state[f"{head}_{rest}"] = state[head + rest.replace("embed.", "embed.0.")] = value
        elif part == "decoder":
            state[f"{head}{nested_in}{rest}"] = value
        else:
            state[f"sem_seg_head.{key}" if part == "pixel_decoder" else key] = value
    return SimpleNamespace(state={f"model.{key}": value for key, value in state.items()}, path=tmp_path / "t.pth")


def test_a_published_checkpoint_is_whole(checkpoint):
    torch.save({"model": checkpoint.state}, checkpoint.path)
    made = build.build_segmenter(SegmentSettings(model="semantic-sam", weights=str(checkpoint.path)))
    patch = PairImages(np.random.default_rng(0).integers(256, size=(2, 64, 64, 3), dtype=np.uint8))
    answers = made.decode(made.encode(patch), PromptBatch(np.array([0, 1]), boxes=np.full((2, 4), 20, np.float32)))
    assert answers.logits.shape == (2, 64, 64)
    assert not np.array_equal(*answers.logits)


def test_copies_that_differ_are_refused(checkpoint):
    copies = [key for key in checkpoint.state if "bbox_embed.0.layers.2" in key]
    checkpoint.state[copies[0]] = checkpoint.state[copies[0]] + 1
    torch.save(checkpoint.state, checkpoint.path)
    with pytest.raises(WeightsError, match="several times with different values"):
        official.load_official(checkpoint.path)


def test_another_checkpoint_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="is no Semantic-SAM"):
        build.build_segmenter(SegmentSettings(model="semantic-sam", weights=str(tmp_path / "other.pth")))


def test_a_published_checkpoint_takes_no_backbone(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "t.pth")
    settings = SegmentSettings(model="semantic-sam", weights=str(tmp_path / "t.pth"), backbone="vit-b")
    with pytest.raises(WorkflowError, match=r"segment\.backbone: a published checkpoint of Semantic-SAM is whole"):
        semantic_files(settings)
