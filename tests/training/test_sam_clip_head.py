"""SAM-CLIP's training: the teacher's views, three stages, what is trained in each, and what SAM must not forget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.backbones.vit import ViTEncoder, ViTSize
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.preprocess import SAM_PIXELS
from wsi_pipeline.models.sam import Variant
from wsi_pipeline.models.sam_clip.facts import TABLE, ClipFacts
from wsi_pipeline.models.sam_clip.network import MergedSam
from wsi_pipeline.models.sam_clip.plan import sam_clip_plan
from wsi_pipeline.models.tensor_store import TensorStore
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.recipe import SamClipRecipe
from wsi_pipeline.training.sam_clip_head import BY_COSINES, SamClipHead, cosines
from wsi_pipeline.training.sam_clip_lessons import boxes_of, tokens_of_views
from wsi_pipeline.training.sam_clip_loss import meaning_loss, rehearsal_loss
from wsi_pipeline.training.sam_clip_views import corners_of, crops_of, cut, sides_of
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.workflow import ModelSettings

CPU = torch.device("cpu")
QUICK = {
    "system": "sam-clip",
    "epochs": 2,
    "variants": 1,
    "objects": 2,
    "shape": {"width": 32, "depth": 1},
    "views": (1.0, 0.5),
    "words": {"light": ["bright"], "dark": ["dim"]},
}


class Brightness:
    """A teacher that tells light from dark patches, and counts its answers."""

    name, dim, logit_scale, reads_sentences, image_size = "brightness", 6, 12.0, False, 32

    def __init__(self) -> None:
        self.asked = 0

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(self.dim)[[0 if text in ("light", "bright") else 1 for text in texts]]

    def encode_image(self, images: np.ndarray) -> Tensor:
        self.asked += len(images)
        share = torch.from_numpy(images).float().mean((1, 2, 3)) / 255
        vectors = torch.zeros(len(images), self.dim)
        vectors[:, 0], vectors[:, 1], vectors[:, 2] = share, 1 - share, 0.3
        return torch.nn.functional.normalize(vectors, dim=1)


class Greys:
    """Patches of one grey each, with a square of another."""

    def __init__(self, *greys: int) -> None:
        self._greys = greys
        self.infos = tuple(
            SampleInfo(f"s{number}", f"p{number}", "val" if number % 3 == 2 else "train", ("nucleus",), "CC0-1.0")
            for number in range(len(greys))
        )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        labels = np.zeros((256, 256), np.int32)
        labels[60:140, 90:190] = 1
        image = np.full((256, 256, 3), self._greys[index], np.uint8)
        image[labels > 0] //= 2
        return Sample(self.infos[index], Picture(image, labels, np.ones(labels.shape, bool)), ("nucleus",))


def fake_encode(images: np.ndarray) -> tuple[EncoderOutput]:
    cells = torch.from_numpy(images).float().mean(-1).reshape(len(images), 64, 4, 64, 4).mean((2, 4)) / 255
    wave = torch.linspace(0, 3, 256)[:, None, None]
    seen = torch.cos(wave * 3 * cells[:, None])
    return (EncoderOutput(seen, cells[..., None].repeat(1, 1, 1, 160)),)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen stages without an image encoder."""
    fake = SimpleNamespace(encode=fake_encode)
    monkeypatch.setattr("wsi_pipeline.training.sam_clip_lessons.shared_encoder", lambda *given, **more: fake)


def recipe_of(**changes: Any) -> SamClipRecipe:
    return SamClipRecipe.model_validate(QUICK | changes)


def saved(head: SamClipHead, path: Path) -> str:
    tensors = {name: value.detach().contiguous().clone() for name, value in head.tensors().items()}
    save_file(tensors, path, metadata=head.metadata())
    return str(path)


# views


def test_views_lie_within_the_patch_and_stay_where_they_are() -> None:
    sides = sides_of((1.0, 0.5, 0.25), 16)
    assert sides == [16, 8, 4]
    for digest in ("a1", "b2", "c3"):
        corners = corners_of(digest, sides, 16)
        assert (corners >= 0).all()
        assert (corners + np.array(sides)[:, None] <= 16).all()
        np.testing.assert_array_equal(corners, corners_of(digest, sides, 16))


def test_teacher_and_head_are_shown_the_same_squares() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    tokens = torch.from_numpy(image).float().reshape(1, 16, 4, 16, 4, 3).mean((2, 4))
    corners = corners_of("abc", [8], 16)
    (crop,) = crops_of(image, corners, [8], 16)
    seen = cut(tokens, torch.from_numpy(corners), 8)
    torch.testing.assert_close(seen[0], torch.from_numpy(crop).float().reshape(8, 4, 8, 4, 3).mean((1, 3)))


def test_boxes_are_those_of_objects_or_anywhere() -> None:
    picture = Greys(200)[0].high
    boxes = boxes_of(picture, 3, 16, np.random.default_rng(0))
    assert boxes.tolist() == [[90, 60, 190, 140]] * 3
    nothing = Picture(picture.image, np.zeros_like(picture.labels), picture.known)
    anywhere = boxes_of(nothing, 5, 16, np.random.default_rng(0))
    assert anywhere.shape == (5, 4)
    assert (anywhere >= 0).all()
    assert (anywhere <= 256).all()


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    kept, made = TensorStore(tmp_path), []

    def make() -> dict[str, Tensor]:
        made.append(1)
        return {"one": torch.arange(3)}

    for _ in range(2):
        assert torch.equal(kept.get("abcd", make)["one"], torch.arange(3))
    assert len(made) == 1


# losses and scores


def test_a_constant_answer_has_a_high_cosine_and_none_without_the_mean() -> None:
    mean = torch.nn.functional.normalize(torch.ones(16), dim=0)
    taught = torch.nn.functional.normalize(mean + 0.1 * torch.randn(50, 16), dim=-1)
    constant = cosines(taught.mean(dim=0).expand_as(taught), taught, mean)
    assert constant["cosine"] >= constant["constant_cosine"]
    assert constant["cosine"] > 0.9
    assert abs(constant["centred_cosine"]) < 0.1
    right = cosines(taught, taught, mean)
    assert right["centred_cosine"] == pytest.approx(1)


def test_epochs_are_judged_by_what_differs_between_images() -> None:
    said, taught = torch.randn(2, 8, 30).double()
    found = BY_COSINES.of([torch.cat([said, taught]), torch.cat([taught, taught])])
    assert 0.3 < found["centred_cosine"] < 0.7


def test_the_right_answers_cost_nothing() -> None:
    vectors = torch.randn(4, 8)
    assert meaning_loss(3 * vectors, vectors) == pytest.approx(0, abs=1e-6)
    masks = torch.zeros(1, 2, 32, 32)
    masks[..., 5:20, 5:20] = 1
    answers = (40 * masks - 20).half()
    assert rehearsal_loss(40 * masks - 20, answers) < 1e-3
    assert rehearsal_loss(20 - 40 * masks, answers) > 1


# stages


def test_the_probe_trains_the_head_alone_and_writes_it_alone(quick: None, tmp_path: Path) -> None:
    teacher = Brightness()
    head = SamClipHead(recipe_of(), CPU, teacher)
    assert {name.split(".")[0] for name in head.trained} == {"clip_head"}
    batches = head.batches(Joined([Greys(250, 30, 140, 90)]), tmp_path)
    optimiser = torch.optim.AdamW(head.groups(), lr=3e-3)
    losses = []
    for epoch in range(1, 25):
        head.begin(epoch)
        (part,) = batches.training([0, 1, 3], 1, 1, 0)
        loss = head.loss(part)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    assert teacher.asked == 3 * 2
    assert {name.split(".")[0] for name in head.tensors()} == {"clip_head", "logit_scale", "words"}
    facts = ClipFacts.of(head.metadata(), Path("x"))
    assert (facts.teacher, facts.text, facts.data) == ("brightness", TABLE, "probe: 3 samples under CC0-1.0")
    torch.testing.assert_close(head.module.words[:, :2], torch.eye(2))
    assert float(head.module.logit_scale.exp()) == pytest.approx(teacher.logit_scale)


def test_a_stage_goes_on_from_the_file_of_the_one_before(quick: None, tmp_path: Path) -> None:
    first = SamClipHead(recipe_of(), CPU, Brightness())
    path = saved(first, tmp_path / "probe.safetensors")
    plan = sam_clip_plan(ModelSettings(model="sam-clip", weights=path))
    assert set(plan.files) == {"sam", "sam-clip"}
    again = SamClipHead(recipe_of(stage="resolution", weights=path, seed=5), CPU, Brightness())
    assert torch.equal(again.module.clip_head.proj.weight, first.module.clip_head.proj.weight)
    with pytest.raises(TrainingError, match="Set the recipe's keys to those it was trained with"):
        SamClipHead(recipe_of(stage="resolution", weights=path, shape={"width": 40}), CPU, Brightness())


@pytest.mark.slow
def test_merging_trains_encoder_and_decoder_slower_and_keeps_batch_norms(quick: None, tmp_path: Path) -> None:
    path = saved(SamClipHead(recipe_of(), CPU, Brightness()), tmp_path / "probe.safetensors")
    recipe = recipe_of(stage="merge", weights=path, encoder_rate=0.1, views=(0.5,))
    head = SamClipHead(recipe, CPU, Brightness())
    assert {name.split(".")[0] for name in head.trained} == {"clip_head", "image_encoder", "mask_decoder"}
    assert [group["share"] for group in head.groups()] == [1.0, 0.1]
    (part,) = head.batches(Joined([Greys(250, 30, 140)]), tmp_path).training([0], 1, 1, 0)
    assert part.answers.dtype == torch.float16
    assert part.answers.shape == (1, 2, 256, 256)
    head.begin(1)
    norms = [value.clone() for name, value in head.module.named_buffers() if "running" in name]
    loss = head.loss(part)
    loss.backward()
    assert all(value.grad is not None for name, value in head.trained.items() if "patch_embed" in name)
    assert head.module.prompt_encoder.not_a_point_embed.weight.grad is None
    after = [value for name, value in head.module.named_buffers() if "running" in name]
    assert all(torch.equal(*pair) for pair in zip(norms, after, strict=True))
    assert any(name.startswith("image_encoder.") for name in head.tensors())
    # before any step SAM answers as it did, but for masks cut at 0
    forgetful = SamClipHead(recipe.model_copy(update={"rehearsal": 0.0}), CPU, Brightness())
    forgetful._sides = head._sides
    assert 0 < float(loss - forgetful.loss(part)) < 1.0


def test_recipes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TrainingError, match="there is nobody to learn from"):
        SamClipHead(recipe_of(), CPU)
    with pytest.raises(TrainingError, match=r"stage merge goes on from trained weights"):
        recipe_of(stage="merge").check()
    with pytest.raises(TrainingError, match="shares of at most 1"):
        recipe_of(views=(2.0,)).check()


def test_a_plain_vision_transformer_looks_at_views_by_themselves() -> None:
    size = ViTSize(dim=32, depth=1, heads=2, global_blocks=(0,))
    variant = Variant("tiny", 256, SAM_PIXELS, frozenset({"box"}), False, lambda: ViTEncoder(size, 256))
    facts = ClipFacts(backbone="vit-b", teacher="none", text=TABLE, dim=6, shape={"width": 32, "depth": 1, "heads": 2})
    network = MergedSam(variant, facts).eval()
    pixels = torch.rand(2, 3, 256, 256) * 255
    corners = torch.tensor([[[0, 0], [0, 0]], [[2, 4], [8, 1]]])
    with torch.no_grad():
        whole, part = tokens_of_views(network, None, pixels, corners, [16, 8])
        alone = network.look(pixels[1:, :, 16:144, 128:256])
    assert whole.shape == (2, 16, 16, 32)
    torch.testing.assert_close(part[1:], alone.early, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_that_goes_on_gives_the_same_weights(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_pipeline.training.sam_clip_head.load_teacher", lambda *given: Brightness())
    states = []
    for stops in ((2,), (1, 2)):
        folder = tmp_path / str(len(stops))
        for epochs in stops:
            source = Joined([Greys(250, 30, 140, 90, 200, 60)])
            training = Training(recipe_of(epochs=epochs, batch=2), source, folder, folder / "embeddings")
            training.run()
        states.append(training.state)
    assert set(states[0].history[-1]) >= {"cosine", "centred_cosine", "constant_cosine"}
    for name, value in states[0].trained.items():
        assert torch.equal(value, states[1].trained[name])
