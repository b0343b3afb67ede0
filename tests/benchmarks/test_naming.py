"""The benchmark of naming asks about what it says, and its page holds nothing but what was found."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks.naming import __main__ as command
from benchmarks.naming import ensemble, recognition, sources, speed, study
from benchmarks.naming.distillation import explained
from benchmarks.naming.objects import Objects, asked_objects
from benchmarks.naming.page import render
from benchmarks.naming.sources import NAMES, STROMA, Drawn, with_shuffled_names
from benchmarks.scenes import Scene
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.resolve import sam_plan
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.text import class_vectors
from wsi_pipeline.training.ov_sam_head import OvSamHead
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.vocabulary import VocabularySettings
from wsi_pipeline.workflow import ModelSettings

CPU = torch.device("cpu")


def small_scene(seed: int) -> Scene:
    """A tile with three dark squares, quickly."""
    labels = np.zeros((512, 512), np.int32)
    for number in range(3):
        labels[150 : 350 + seed, 20 + 160 * number : 120 + 160 * number] = number + 1
    image = np.where(labels[..., None] > 0, np.uint8(60) * labels[..., None].astype(np.uint8), np.uint8(220))
    return Scene(image.repeat(3, axis=2).astype(np.uint8), labels, sources.CLASSES)


def fake_encode(images: np.ndarray) -> EncoderOutput:
    """Grey levels of 4 x 4 px in every channel, without any network."""
    cells = torch.from_numpy(images).float().mean(-1).reshape(len(images), 64, 4, 64, 4).mean((2, 4)) / 255 - 0.5
    return EncoderOutput(cells[:, None].repeat(1, 256, 1, 1), cells[..., None].repeat(1, 1, 1, 160))


class FakeWords:
    """Stands for the sentence encoder."""

    name, dim, logit_scale, reads_sentences = "fake", 8, 20.0, False

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        numbers = [sum(map(ord, text)) for text in texts]
        vectors = [torch.randn(8, generator=torch.Generator().manual_seed(number)) for number in numbers]
        return F.normalize(torch.stack(vectors), dim=1)


@pytest.fixture(scope="module")
def backbone() -> Sam:
    return load_sam(sam_plan(ModelSettings(model="sam", backbone="lite-medsam")))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, backbone: Sam) -> None:
    """Small tiles, and nobody who encodes anything."""
    monkeypatch.setattr(sources, "draw_scene", small_scene)
    for module in ("wsi_pipeline.training.ov_sam_head", "benchmarks.naming.study"):
        monkeypatch.setattr(f"{module}.load_sam", lambda plan: backbone)
    monkeypatch.setattr(study, "MiniLm", FakeWords)
    monkeypatch.setattr("wsi_pipeline.models.image_text.minilm.MiniLm", FakeWords)
    monkeypatch.setattr("wsi_pipeline.training.features.FrozenFeatures.of", lambda *given: fake_encode)


def test_drawn_tiles_have_stroma_that_is_nothing_else(quick: None) -> None:
    source = Drawn(1, 1)
    sample, scene = source[1], small_scene(1)
    np.testing.assert_array_equal(sample.high.labels[scene.labels > 0], scene.labels[scene.labels > 0])
    assert sample.classes[3:] == (STROMA,) * (sample.high.labels.max() - 3)
    assert sample.high.labels.max() > 3
    assert [info.split for info in source.infos] == ["train", "val"]


def test_only_training_tiles_get_shuffled_names(quick: None) -> None:
    source = Drawn(8, 1)
    shuffled = with_shuffled_names(source, NAMES)
    assert shuffled[8].classes == source[8].classes
    assert any(shuffled[number].classes != source[number].classes for number in range(8))
    assert shuffled[3].classes == shuffled[3].classes


def test_asked_objects_are_those_in_sight(quick: None) -> None:
    recipe = study.recipe_for(NAMES)
    joined = Joined([Drawn(1, 1)])
    objects = asked_objects(recipe, joined, [1], fake_encode, zoom=0.5, most=None)
    sample = Drawn(1, 1)[1]
    assert objects.names.tolist() == list(sample.classes)
    np.testing.assert_allclose(np.exp(objects.sizes[0]), [50 * 100.5, 50, 100.5], rtol=0.03)
    np.testing.assert_allclose(objects.colours[:3, 0], [60, 120, 180], atol=1)
    np.testing.assert_allclose(objects.means[:3, 0], np.array([60, 120, 180]) / 255 - 0.5, atol=0.08)
    fewer = asked_objects(recipe, joined, [1], fake_encode, zoom=0.5, most=2)
    assert len(fewer.names) == 2


def test_a_head_is_asked_with_words_it_was_not_trained_on(quick: None, tmp_path: Path) -> None:
    recipe = study.sentences(study.recipe_for(NAMES[:2], epochs=1, variants=1))
    head = recognition.trained_head(recipe, Drawn(2, 1), tmp_path, tmp_path)
    joined = Joined([Drawn(2, 1)])
    objects = asked_objects(study.recipe_for(NAMES), joined, [2], fake_encode, zoom=0.5, most=None)
    words = class_vectors(FakeWords(), VocabularySettings.model_validate({"classes": list(NAMES)}))
    scores = recognition.scores_of(head, objects, words)
    assert scores.shape == (len(objects.names), len(NAMES))
    np.testing.assert_allclose(scores[:, :2], recognition.scores_of(head, objects), rtol=1e-5)


class GreyNetwork(ensemble.MapTeacher):
    """Knows how bright a region is: the darker, the nearer to the first class."""

    def encode_map(self, images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).float().mean(-1).reshape(len(images), 1, 16, 16, 16, 16).mean((3, 5))

    def encode_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        turn = pooled.mean((1, 2, 3)) / 255
        return F.pad(torch.stack([turn.cos(), turn.sin()], dim=1), (0, self.dim - 2))


def test_a_network_speaks_of_the_asked_objects_in_their_order(quick: None) -> None:
    recipe, source = study.recipe_for(NAMES), Joined([Drawn(1, 2)])
    network = GreyNetwork(NAMES)
    network.words.data = torch.eye(len(NAMES), network.dim)
    opinion = ensemble.opinion_of(network, recipe, source, [1, 2], zoom=0.5)
    objects = asked_objects(recipe, source, [1, 2], fake_encode, zoom=0.5, most=None)
    assert opinion.seen.all()
    bright = objects.colours[:, 0] / 255
    np.testing.assert_allclose(opinion.logits[:, 0], 100 * np.cos(bright), atol=9)
    assert np.corrcoef(opinion.logits[:, 1], np.sin(bright))[0, 1] > 0.99


def test_the_network_has_the_say_on_a_new_class_where_it_sees_anything() -> None:
    head, network = np.array([[5.0, 0.0, 0.0]] * 2, np.float32), torch.tensor([[0.0, 0.0, 90.0, 0.0]] * 2)
    opinion = ensemble.Opinion(network, torch.tensor([True, False]))
    assert ensemble.together(head, opinion, ["a", "b", "c"], "c").argmax(axis=1).tolist() == [2, 0]
    weak = ensemble.Opinion(torch.tensor([[0.0, 9.0, 0.0, 0.0]] * 2), opinion.seen)
    assert ensemble.together(head, weak, ["a", "b", "c"], "c").argmax(axis=1).tolist() == [0, 0]


def objects_of(names: list[str], values: Sequence[float]) -> Objects:
    column = np.array(values, float)[:, None]
    groups = np.array([f"g{number % 3}" for number in range(len(names))])
    return Objects(torch.zeros(len(names), 1), column, column, column, column, np.array(names), groups)


def test_ways_without_head_tell_what_can_be_told() -> None:
    seen = objects_of(["a", "a", "b", "b"] * 3, [0, 0.1, 1, 1.1] * 3)
    said = recognition.without_head(seen, seen)
    assert len(said) == 5
    for one in said.values():
        assert one.tolist() == seen.names.tolist()


def test_scores_of_names() -> None:
    objects = objects_of(["a", "a", "a", "b"], [0, 0, 0, 0])
    found = recognition.judged(np.array(["a", "a", "b", "b"]), objects)
    assert found["accuracy"] == 3 / 4
    assert found["balanced"][0] == pytest.approx((2 / 3 + 1) / 2)
    assert found["recall"] == {"a": pytest.approx(2 / 3), "b": 1.0}
    scores = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    held = recognition.held_out(scores, ["a", "b"], "b", objects)
    assert held == {"balanced": pytest.approx(5 / 6), "recall": 1.0, "false": pytest.approx(1 / 3), "auroc": 1.0}


def test_the_mean_explains_nothing() -> None:
    wanted = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    mean = torch.cat(wanted).mean((0, 2, 3), keepdim=True).expand(1, -1, 8, 8)
    assert explained(wanted, [mean, mean]) == pytest.approx(0, abs=1e-6)
    assert explained(wanted, wanted) == 1


def tiles_in(folder: Path) -> Path:
    """Glands and tumour of four patients, and nuclei of two."""
    rows = [("rings", "P1", "benign gland"), ("rings", "P2", "tumour region"), ("rings", "P3", "benign gland"),
            ("rings", "P4", "tumour region"), ("cells", "n1", "nucleus"), ("cells", "n2", "nucleus")]  # fmt: skip
    columns = ["file", "mask", "dataset", "split", "group", "object_class", "licence"]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number, (dataset, group, name) in enumerate(rows):
            scene = small_scene(number)
            Image.fromarray(scene.image).save(folder / f"{number}.png")
            Image.fromarray(scene.labels.astype(np.uint8)).save(folder / f"{number}m.png")
            split = "val" if group in ("P3", "P4", "n2") else "train"
            writer.writerow([f"{number}.png", f"{number}m.png", dataset, split, group, name, "CC0-1.0"])
    return folder


def test_the_page_tells_all_and_no_folder(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = study.recipe_for
    monkeypatch.setattr(study, "recipe_for", lambda names=None, **given: few(names, epochs=1, variants=1))
    monkeypatch.setattr(recognition, "DRAWS", 10)
    monkeypatch.setattr(study, "TRAINED", 2)
    monkeypatch.setattr(study, "ASKED", 2)
    monkeypatch.setattr(ensemble, "TILES", 1)
    monkeypatch.setattr(ensemble, "STEPS", 1)
    monkeypatch.setattr(study, "trained_head", lambda recipe, *given: OvSamHead(recipe, CPU))
    learned = {"steps": 1, "explained": 0.5, "teacher": 0.9, "learned": 0.8}
    monkeypatch.setattr(study, "distillation", lambda *given: {"second to fourth": learned, "second": learned})
    times = {"masks": 64, "crop_encoder": speed.CROP_ENCODER, "pooling": 0.1, "encoder": 1.0, "crops": 2.0}
    monkeypatch.setattr(study, "timing", lambda *given: times)
    page, numbers = tmp_path / "page.md", tmp_path / "numbers.json"
    words = ["--data", tiles_in(tmp_path), "--write", page, "--json", numbers]
    monkeypatch.setattr(sys, "argv", ["naming", *map(str, words)])
    command.main()
    text, found = page.read_text(), json.loads(numbers.read_text())
    assert text == render(found)
    assert str(tmp_path) not in text
    assert found["one set"]["groups"] == 4
    assert set(found["drawn"]["held out"]) == set(found["drawn"]["beside"]) == set(NAMES)
    assert found["real"]["counts"] == {"nucleus": 2, "benign gland": 3, "tumour region": 3}
    assert "| time of image-crop / of region pooling | ≥ 5 | 20.0 | yes |" in text
    assert "| explained variance of the distilled embedding | ≥ 0.8 | 0.500 | **no** |" in text
