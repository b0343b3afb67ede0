"""The training of the head that names regions: which objects count, how it is judged, and that it can be stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.ov_sam.region_head import GRID, load_region_head
from wsi_pipeline.models.resolve import sam_plan
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.judging import BY_MASKS, BY_NAMES
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.ov_sam_batches import RegionBatches, regions_of
from wsi_pipeline.training.ov_sam_head import OvSamHead
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.training.systems import load_recipe
from wsi_pipeline.workflow import ModelSettings

CPU = torch.device("cpu")
GREYS = {"nucleus": 60, "gland": 150, "fat": 250}
QUICK: dict[str, Any] = {
    "classes": ["nucleus", "gland"], "epochs": 6, "variants": 1, "batch": 2, "dim": 8, "looks": 1, "patience": 9,
    "optimiser.rate": 0.01, "optimiser.warm_up": 1, "save_as": "fp32",
}  # fmt: skip


class Discs:
    """Patches of 256 px with one disc of each class, told apart by their grey levels; every third is for validation."""

    def __init__(self, count: int, *classes: str) -> None:
        self.classes = classes
        self.infos = tuple(
            SampleInfo(f"s{number}", f"p{number}", "val" if number % 3 == 2 else "train", classes, "CC0-1.0")
            for number in range(count)
        )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        y, x = np.mgrid[:256, :256]
        image, labels = np.full((256, 256, 3), 210, np.uint8), np.zeros((256, 256), np.int32)
        for number, name in enumerate(self.classes, start=1):
            disc = (x - 80 * number + 16) ** 2 + (y - 120 - index) ** 2 < (24 + index) ** 2
            image[disc], labels[disc] = GREYS[name], number
        return Sample(self.infos[index], Picture(image, labels, np.ones(labels.shape, bool)), self.classes)


def fake_encode(images: np.ndarray) -> EncoderOutput:
    """Grey levels of 4 x 4 px in every channel, without any network."""
    cells = torch.from_numpy(images).float().mean(-1).reshape(len(images), 64, 4, 64, 4).mean((2, 4)) / 255 - 0.5
    return EncoderOutput(cells[:, None].repeat(1, 256, 1, 1), cells[..., None].repeat(1, 1, 1, 160))


class FakeWords:
    """Stands for the sentence encoder."""

    name, dim, logit_scale, reads_sentences = "fake", 8, 20.0, False

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.eye(8)[[len(text) % 8 for text in texts]]


@pytest.fixture(scope="module")
def backbone() -> Sam:
    return load_sam(sam_plan(ModelSettings(model="sam", backbone="lite-medsam")))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, backbone: Sam) -> None:
    """Training without an image encoder."""
    monkeypatch.setattr("wsi_pipeline.training.ov_sam_head.load_sam", lambda plan: backbone)
    monkeypatch.setattr("wsi_pipeline.models.image_text.minilm.MiniLm", FakeWords)
    monkeypatch.setattr("wsi_pipeline.training.ov_sam_head.FrozenFeatures.of", lambda *given: fake_encode)


def batches_of(source: Discs, **changes: Any) -> RegionBatches:
    recipe = load_recipe("ov-sam", None, QUICK | changes)
    return RegionBatches(recipe, Joined([source], classes=recipe.classes), fake_encode, CPU)


def train(source: Discs, output: Path, **changes: Any) -> Training:
    recipe = load_recipe("ov-sam", None, QUICK | changes)
    training = Training(recipe, Joined([source], classes=recipe.classes), output, output / "embeddings")
    training.run()
    return training


def test_regions_are_boxes_with_their_masks_where_they_are_known() -> None:
    sample = Discs(1, "nucleus", "gland")[0]
    known = np.ones((256, 256), bool)
    known[:, 150:] = False
    pictures = [sample.high, Picture(sample.high.image, sample.high.labels, known)]
    regions = regions_of(pictures, [np.array([2]), np.array([1, 2])])
    assert regions.image_index.tolist() == [0, 1, 1]
    whole, _, cut = regions.boxes.tolist()
    rows, columns = ndimage.find_objects(sample.high.labels)[1]
    assert whole == [columns.start, rows.start, columns.stop, rows.stop]
    assert cut == [whole[0], regions.boxes[2, 1], 150, regions.boxes[2, 3]]
    for (x0, y0, x1, y1), mask in zip(regions.boxes, regions.masks, strict=True):
        assert mask.shape == (y1 - y0, x1 - x0)
        assert mask.any(axis=0).all()


def test_objects_of_other_classes_are_left_out() -> None:
    batches = batches_of(Discs(3, "nucleus", "fat", "gland"))
    (judged,) = batches.validation(2)
    assert judged.classes.tolist() == [0, 1]
    assert judged.features.shape[1:] == (3 * 416, GRID, GRID)
    (alone,) = batches_of(Discs(3, "nucleus", "gland"), low_patch=False).validation(2)
    assert alone.features.shape[1] == 2 * 416


def test_a_batch_depends_on_its_arguments_alone() -> None:
    source = Discs(6, "nucleus", "gland")
    (first,), (again,) = (list(batches_of(source, objects=1).training([0, 3], 2, 1, 0)) for _ in range(2))
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.classes, again.classes)
    assert first.seed == again.seed
    assert len(first.classes) <= 2


def test_a_class_counts_the_same_however_many_objects_it_has(quick: None, tmp_path: Path) -> None:
    training = train(Discs(3, "nucleus", "gland"), tmp_path, epochs=1)
    head = training.head
    assert isinstance(head, OvSamHead)
    head.module.eval()
    (part,) = batches_of(Discs(3, "nucleus", "gland")).validation(2)
    rows = torch.tensor([0, 0, 0, 1])
    many = part._replace(features=part.features[rows], classes=part.classes[rows])
    torch.testing.assert_close(head.loss(many), head.loss(part))


def test_judged_by_the_mean_over_classes() -> None:
    nuclei, gland = torch.tensor([[0, 0, 0], [0, 0, 1]]), torch.tensor([[1], [1]])
    found = BY_NAMES.of([nuclei, gland])
    assert found == {"accuracy": 3 / 4, "balanced_accuracy": pytest.approx((2 / 3 + 1) / 2)}
    masks = BY_MASKS.of([torch.tensor([[1.0, 0.5], [0.5, 0.5]]), torch.tensor([[0.25], [0.0]])])
    assert masks == {"dice": 0.5, "boundary_iou": 0.25}


def test_a_few_epochs_tell_grey_levels_apart_and_the_file_says_its_classes(quick: None, tmp_path: Path) -> None:
    source = Discs(6, "nucleus", "gland")
    training = train(source, tmp_path)
    assert training.best["balanced_accuracy"] == 1
    path = write_result(training, {"discs": source}, tmp_path)
    head = load_region_head(path)
    assert [one.name for one in head.facts.classes] == ["nucleus", "gland"]
    (part,) = batches_of(source).validation(2)
    with torch.inference_mode():
        torch.testing.assert_close(head(part.features), training.head.module.eval()(part.features))
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["recognise"] == {
        "model": "ov-sam",
        "backbone": "lite-medsam",
        "weights": "ov-sam.safetensors",
        "classes": {"nucleus": ["nucleus"], "gland": ["gland"]},
    }
    assert card["metrics"]["result"]["balanced_accuracy"] == 1
    assert "segment" not in card


def test_a_run_that_goes_on_gives_the_same_weights(quick: None, tmp_path: Path) -> None:
    source = Discs(4, "nucleus", "gland")
    whole = train(source, tmp_path / "whole", epochs=3)
    train(source, tmp_path / "parts", epochs=1)
    torch.rand(3)  # other use of the process's generator does not matter
    parts = train(source, tmp_path / "parts", epochs=3)
    for name, value in whole.head.tensors().items():
        assert torch.equal(value, parts.head.tensors()[name]), name


def test_sentence_vectors_stay_as_they_are(quick: None, tmp_path: Path) -> None:
    source = Discs(3, "nucleus", "gland")
    words = {"text": "minilm", "synonyms": {"gland": ["acinus"]}}
    training = train(source, tmp_path, epochs=1, **words)
    head = training.head
    assert isinstance(head, OvSamHead)
    assert head.module.table is None
    assert head.module.facts.dim == FakeWords.dim
    (part,) = batches_of(source).validation(2)
    with torch.inference_mode():
        cosines = head.module.eval()(part.features) @ FakeWords().encode_text(["nucleus", "gland", "acinus"]).mT
        best = torch.stack([cosines[:, 0], cosines[:, 1:].amax(dim=1)], dim=1)
        torch.testing.assert_close(head.logits(part.features), best * head.module.scale)


def test_features_are_measured_before_training(quick: None, tmp_path: Path) -> None:
    training = train(Discs(3, "nucleus", "gland"), tmp_path, epochs=1)
    seen = torch.cat(list(batches_of(Discs(3, "nucleus", "gland")).first_seen()))
    torch.testing.assert_close(training.head.module.norm.running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(training.head.module.norm.running_var, seen.var((0, 2, 3), correction=0))


def test_weights_to_start_from_have_to_be_for_the_same_classes(quick: None, tmp_path: Path) -> None:
    source = Discs(3, "nucleus", "gland")
    path = write_result(train(source, tmp_path / "first", epochs=1), {"discs": source}, tmp_path)
    again = OvSamHead(load_recipe("ov-sam", None, QUICK | {"weights": str(path), "seed": 1}), CPU)
    assert torch.equal(again.module.convolution.weight, load_region_head(path).convolution.weight)
    with pytest.raises(TrainingError, match="Set the recipe's keys to fit"):
        OvSamHead(load_recipe("ov-sam", None, QUICK | {"weights": str(path), "classes": ["gland", "fat"]}), CPU)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["gland"]}, "classes: there is nothing to tell apart"),
        ({"synonyms": {"fat": ["adipose tissue"]}}, "synonyms: fat is no class"),
    ],
)
def test_keys_that_do_not_fit_are_one_clear_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        load_recipe("ov-sam", None, QUICK | changes)
