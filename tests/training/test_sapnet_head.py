"""SAPNet's training: what a batch is made of, runs that are stopped, and the file that is left."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.sapnet.build import load_sapnet
from wsi_pipeline.models.sapnet.file import SapNetFacts
from wsi_pipeline.training import sapnet_head
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.sapnet_batches import ClickBatch
from wsi_pipeline.training.sapnet_head import SapNetHead
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.training.systems import load_recipe

pytestmark = pytest.mark.usefixtures("plugin", "tiny")

CENTRES = {"dark": ((70, 80), (180, 90)), "light": ((120, 190),)}
GREY = {"dark": 60, "light": 140}
RADIUS = 25
QUICK: dict[str, Any] = {
    "classes": ["dark", "light"],
    "width": 32,
    "selector.hidden": 16,
    "selector.negatives": 4,
    "solo.channels": 32,
    "solo.stacked": 1,
    "solo.kernel": 32,
    "solo.mask_channels": 32,
    "proposer.model": "threshold",
    "proposer.sides": [60, 120],
    "proposer.low_patch": False,
    "epochs": 2,
    "judged": False,
    "variants": 1,
    "accumulate": 1,
    "save_as": "fp32",
    "optimiser.warm_up": 0,
}


class Discs:
    """The same patch four times, with two dark discs and a light one; the last one is for validation."""

    def __init__(self) -> None:
        self.infos = tuple(
            SampleInfo(f"s{number}", f"p{number}", "val" if number == 3 else "train", tuple(CENTRES), "CC0-1.0")
            for number in range(4)
        )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        labels, image = np.zeros((256, 256), np.int32), np.full((256, 256, 3), 220, np.uint8)
        y, x = np.mgrid[:256, :256]
        names = []
        for name, centres in CENTRES.items():
            for cx, cy in centres:
                names.append(name)
                disc = (x - cx) ** 2 + (y - cy) ** 2 < RADIUS**2
                labels[disc], image[disc] = len(names), GREY[name]
        return Sample(self.infos[index], Picture(image, labels, np.ones(labels.shape, bool)), tuple(names))


@pytest.fixture
def tiny(small_sam: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that takes no time."""
    monkeypatch.setattr(sapnet_head, "load_sam", lambda plan: small_sam())


def begun(folder: Path, **changes: Any) -> Training:
    recipe = load_recipe("sapnet", overrides=QUICK | changes)
    return Training(recipe, Joined.for_recipe(recipe, [Discs()]), folder, folder.parent / "embeddings")


def written(training: Training, folder: Path) -> Path:
    training.run()
    return write_result(training, {"discs": Discs()}, folder)


def batch_of(training: Training) -> ClickBatch:
    """The last patch as it is."""
    (batch,) = training._batches.validation(3)
    return batch


def test_resumed_training_writes_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole = written(begun(tmp_path / "whole"), tmp_path / "whole")
    begun(tmp_path / "stopped", epochs=1).run()
    stopped = written(begun(tmp_path / "stopped"), tmp_path / "stopped")
    assert stopped.read_bytes() == whole.read_bytes()


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path) -> None:
    one, same, other = (
        written(begun(tmp_path / name, epochs=1, seed=seed), tmp_path / name).read_bytes()
        for name, seed in (("one", 3), ("same", 3), ("other", 4))
    )
    assert one == same
    assert one != other


def test_the_file_says_what_it_is_and_holds_what_was_trained(small_sam: Callable[[], Any], tmp_path: Path) -> None:
    training = begun(tmp_path / "run", epochs=1, judged=True)
    path = written(training, tmp_path)
    assert SapNetFacts.read(path) == training.recipe.facts  # type: ignore[attr-defined]
    network = load_sapnet(small_sam(), path)
    assert not network.training
    for key, value in training.head.module.state_dict().items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=0, atol=0)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["segment"] == {"model": "sapnet", "backbone": "lite-medsam", "weights": "sapnet.safetensors"}
    assert card["metrics"]["what"].startswith("F1 of objects")


def test_without_the_instance_branch_the_file_is_for_clicks_and_judged_by_them(tmp_path: Path) -> None:
    training = begun(tmp_path / "run", epochs=1, judged=True, instances=False)
    card = json.loads(written(training, tmp_path).with_suffix(".json").read_text())
    assert card["segment"]["model"] == "sapnet-select"
    # every proposal that holds a click is the whole disc, so whatever is chosen is right
    assert training.state.history[-1]["f1"] == 1
    (batch,) = training._batches.training([0], 1, 1, 0)
    assert batch.masks is None, "training looks at boxes alone"


def test_other_parts_than_those_of_the_file_cannot_go_on_from_it(tmp_path: Path) -> None:
    path = written(begun(tmp_path / "run", epochs=1), tmp_path)
    again = begun(tmp_path / "again", epochs=1, weights=str(path))
    assert isinstance(again.head, SapNetHead)
    assert again.state.made_for["backbone"]["sapnet"]
    with pytest.raises(TrainingError, match="has other parts than the recipe"):
        begun(tmp_path / "wider", weights=str(path), width=64)


def test_a_batch_has_a_click_in_each_object_and_what_it_may_mean(tmp_path: Path) -> None:
    batch = batch_of(begun(tmp_path / "run"))
    assert sorted(batch.clicks.labels.tolist()) == [0, 0, 1]
    assert batch.clicks.proposals.shape == (3, 2, 4)
    assert batch.masks is not None
    columns, rows = batch.clicks.points.long().T
    assert batch.masks[torch.arange(3), :, rows, columns].all(), "every mask holds its click"
    assert (batch.masks[:, 1].sum(dim=(1, 2)) >= batch.masks[:, 0].sum(dim=(1, 2))).all()


def test_clicks_are_asked_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = batch_of(begun(tmp_path / "run"))
    monkeypatch.setattr(
        "wsi_pipeline.models.sapnet.proposals.MaskProposals.propose", lambda *_: pytest.fail("asked again")
    )
    again = batch_of(begun(tmp_path / "other"))
    torch.testing.assert_close(again.clicks.proposals, one.clicks.proposals)


def test_no_more_clicks_than_the_recipe_wants(tmp_path: Path) -> None:
    assert len(batch_of(begun(tmp_path / "run", points=1)).clicks.points) == 1


def test_classes_without_a_click_are_refused_and_others_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TrainingError, match=r"nothing is annotated as Tumor\. Take it out, or use dark, light"):
        begun(tmp_path / "run", classes=["dark", "Tumor"])
    with caplog.at_level(logging.WARNING):
        batch = batch_of(begun(tmp_path / "run", classes=["light"]))
    assert "clicks of dark are left out: the recipe does not name the class" in caplog.text
    assert batch.clicks.labels.tolist() == [0]
