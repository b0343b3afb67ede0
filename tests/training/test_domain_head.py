"""The domain decoder's training: which samples and px count, and that a stopped run goes on as it would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import DatasetError, TrainingError
from wsi_pipeline.models.domain_decoder.decoder import DecoderFacts, DomainMaps, load_domain_decoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.domain_batches import DomainBatches, target_of
from wsi_pipeline.training.domain_head import DomainHead, domain_loss
from wsi_pipeline.training.domain_target import Target, depths
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.sources import TRAIN, Joined
from wsi_pipeline.training.systems import load_recipe

CPU = torch.device("cpu")
QUICK = {"epochs": 2, "variants": 1, "batch": 2, "patience": 9}


class Scene:
    """Patches of 256 px with a dark disc, of one class each.

    Args:
        classes: by sample; every third sample is for validation.
    """

    def __init__(self, *classes: str) -> None:
        self.infos = tuple(
            SampleInfo(f"s{number}", f"p{number}", "val" if number % 3 == 2 else "train", (name,), "CC0-1.0")
            for number, name in enumerate(classes)
        )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        y, x = np.mgrid[:256, :256]
        disc = (x - 120 - 8 * index) ** 2 + (y - 130) ** 2 < (40 + 4 * index) ** 2
        image = np.where(disc[..., None], np.uint8(90), np.uint8(220)).repeat(3, axis=2)
        picture = Picture(image, disc.astype(np.int32), np.ones(disc.shape, bool))
        return Sample(self.infos[index], picture, self.infos[index].class_names)


def fake_encode(images: np.ndarray) -> EncoderOutput:
    """Grey levels of 4 x 4 px in every channel, without any network."""
    cells = torch.from_numpy(images).float().mean(-1).reshape(len(images), 64, 4, 64, 4).mean((2, 4)) / 255 - 0.5
    return EncoderOutput(cells[:, None].repeat(1, 256, 1, 1), cells[..., None].repeat(1, 1, 1, 160))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without an image encoder."""
    monkeypatch.setattr("wsi_pipeline.training.domain_head.FrozenFeatures.of", lambda *given: fake_encode)


def train(source: Scene, output: Path, **changes: Any) -> Training:
    recipe = load_recipe("domain-decoder", None, QUICK | changes)
    joined = Joined([source], classes=recipe.classes, samples=recipe.samples, seed=recipe.seed)
    training = Training(recipe, joined, output, output / "embeddings")
    training.run()
    return training


def batches_of(source: Scene, **changes: Any) -> DomainBatches:
    recipe = load_recipe("domain-decoder", None, changes)
    return DomainBatches(recipe, Joined([source], classes=recipe.classes), fake_encode, CPU)


def two_classes() -> Sample:
    """A gland (label 1) with a nucleus (label 2) in it; only glands are annotated, and not on the right."""
    labels = np.zeros((256, 256), np.int32)
    labels[50:150, 50:150], labels[90:110, 90:110] = 1, 2
    known = np.ones((256, 256), bool)
    known[:, 200:] = False
    picture = Picture(np.zeros((256, 256, 3), np.uint8), labels, known)
    return Sample(SampleInfo("one", "p", "train", ("gland",), "CC0-1.0"), picture, ("gland", "nucleus"))


def test_depth_is_one_in_the_middle_of_objects_of_any_size() -> None:
    labels = np.zeros((100, 100), np.int32)
    labels[5:16, 5:16], labels[20:91, 20:91] = 1, 2
    depth = depths(labels, np.ones(labels.shape, bool))
    assert depth[10, 10] == depth[55, 55] == 1
    assert depth[5, 10] < 0.2
    assert (depth[labels == 0] == 0).all()


def test_touching_objects_have_a_valley_between_them() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[10:30, 10:30], labels[10:30, 30:50] = 1, 2
    assert depths(labels, np.ones(labels.shape, bool))[20, 29:31].max() <= 0.1


def test_an_object_goes_on_where_nothing_is_known() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[10:30, :20] = 1
    known = np.ones(labels.shape, bool)
    known[:, 20:] = False
    depth = depths(labels, known)
    assert depth[20, 19] == depth[20, 0] == 1


def test_a_class_counts_only_where_somebody_annotated_it() -> None:
    masks, distances, known = target_of(two_classes(), ["gland", "nucleus"])
    assert known[0].mean() == 200 / 256
    assert not known[1].any()
    assert masks[0].sum() == 100**2 - 20**2
    assert (distances[0][masks[0] == 0] == 0).all()


def test_px_that_nobody_knows_do_not_change_the_loss() -> None:
    arrays = target_of(two_classes(), ["gland", "nucleus"])
    target = Target(*(torch.from_numpy(array)[None] for array in arrays))
    random = torch.Generator().manual_seed(0)
    maps = DomainMaps(*(torch.rand((2, 1, 2, 256, 256), generator=random)))
    other = DomainMaps(*(torch.where(target.known, one, 1 - one) for one in maps))
    assert domain_loss(maps, target) == domain_loss(other, target)
    wrong = DomainMaps(maps.masks + target.known, maps.distances)
    assert domain_loss(maps, target) != domain_loss(wrong, target)


def test_the_right_maps_have_hardly_any_loss() -> None:
    target = Target(*(torch.from_numpy(array)[None] for array in target_of(two_classes(), ["gland"])))
    assert domain_loss(DomainMaps((target.masks - 0.5) * 40, target.distances), target) < 1e-3


def test_samples_of_other_classes_are_left_out_and_keep_the_numbers_of_the_rest() -> None:
    source = Joined([Scene("gland", "nucleus", "nucleus", "nucleus")], classes=["nucleus"])
    assert source.numbers(TRAIN) == [1, 3]
    with pytest.raises(DatasetError, match="annotated for stroma of the split train"):
        Joined([Scene("gland", "nucleus", "nucleus")], classes=["stroma"])


def test_fewer_samples_are_part_of_more_of_the_same_seed() -> None:
    scene = Scene(*["nucleus"] * 12)
    chosen = [set(Joined([scene], samples=count, seed=3).numbers(TRAIN)) for count in (2, 4, 8)]
    assert [len(numbers) for numbers in chosen] == [2, 4, 8]
    assert chosen[0] < chosen[1] < chosen[2]
    assert len(Joined([scene], samples=99).numbers(TRAIN)) == 8


def test_a_batch_depends_on_its_arguments_alone() -> None:
    scene = Scene(*["nucleus"] * 6)
    (first,), (again,) = (list(batches_of(scene).training([0, 3], 2, 1, 0)) for _ in range(2))
    assert torch.equal(first.high.embedding, again.high.embedding)
    assert torch.equal(first.target.masks, again.target.masks)
    assert first.seed == again.seed
    (other,) = batches_of(scene).training([0, 3], 2, 2, 0)
    assert first.seed != other.seed


def test_low_patches_are_encoded_only_where_they_are_looked_at() -> None:
    (paired,) = batches_of(Scene("nucleus", "nucleus", "nucleus")).validation(2)
    (alone,) = batches_of(Scene("nucleus", "nucleus", "nucleus"), low_patch=False).validation(2)
    assert paired.low is not None
    assert alone.low is None


@pytest.mark.slow
def test_a_few_steps_find_the_disc_and_the_file_says_its_classes(quick: None, tmp_path: Path) -> None:
    source = Scene(*["nucleus"] * 6)
    training = train(source, tmp_path, epochs=12, low_patch=False, ema=0.5)
    assert training.state.history[-1]["dice"] > 0.8
    path = write_result(training, {"scene": source}, tmp_path)
    assert DecoderFacts.read(path) == DecoderFacts(classes=("nucleus",), backbone="lite-medsam", early_channels=160)
    weights = load_domain_decoder(path).state_dict()
    stored = {name: value.half().float() for name, value in training.head.module.state_dict().items()}
    assert all(torch.equal(value, stored[name]) for name, value in weights.items())


@pytest.mark.slow
def test_a_run_that_goes_on_gives_the_same_weights(quick: None, tmp_path: Path) -> None:
    source = Scene(*["nucleus"] * 4)
    whole = train(source, tmp_path / "whole", low_patch=False)
    train(source, tmp_path / "parts", low_patch=False, epochs=1)
    torch.rand(3)  # other use of the process's generator does not matter
    parts = train(source, tmp_path / "parts", low_patch=False)
    for name, value in whole.state.trained.items():
        assert torch.equal(value, parts.state.trained[name])


def test_weights_to_start_from_have_to_be_for_the_same_classes(quick: None, tmp_path: Path) -> None:
    recipe = load_recipe("domain-decoder")
    head = DomainHead(recipe, CPU)
    from safetensors.torch import save_file

    path = tmp_path / "start.safetensors"
    save_file(head.module.state_dict(), path, metadata=head.metadata())
    again = DomainHead(load_recipe("domain-decoder", None, {"weights": str(path), "seed": 1}), CPU)
    assert torch.equal(again.module.maps.weight, head.module.maps.weight)
    with pytest.raises(TrainingError, match="Set the recipe's keys to fit"):
        DomainHead(load_recipe("domain-decoder", None, {"weights": str(path), "classes": ["gland"]}), CPU)
