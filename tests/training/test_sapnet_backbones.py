"""SAPNet with a backbone that looks at patches itself: from a local file, trained, and used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.errors import TrainingError, WorkflowError
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.sapnet.build import build_segmenter, build_selector
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.training.data.tiles import open_tiles
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.training.systems import load_recipe
from wsi_pipeline.workflow import ModelSettings

QUICK: dict[str, Any] = {
    "features": "resnet10t",
    "width": 32,
    "selector.hidden": 16,
    "selector.negatives": 4,
    "proposer.sides": [100],
    "proposer.low_patch": False,
    "judged": False,
    "epochs": 1,
    "variants": 1,
    "accumulate": 1,
    "save_as": "fp32",
    "optimiser.warm_up": 0,
}


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole network of timm, with its classifier, as it is downloaded elsewhere."""
    timm = pytest.importorskip("timm")
    path = tmp_path_factory.mktemp("body") / "resnet10t.safetensors"
    state = timm.create_model("resnet10t", num_classes=7).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def trained(body: Path, write_tiles: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("sapnet")
    tiles = open_tiles(write_tiles(folder / "tiles", {"a": "train", "b": "train"}))
    recipe = load_recipe("sapnet", overrides={**QUICK, "body": str(body)})
    training = Training(recipe, Joined([tiles], judged=False), folder / "run", folder / "embeddings")
    begun = {key: value.clone() for key, value in training.head.module.state_dict().items()}
    training.run()
    return (training, begun), write_result(training, {"tiles": tiles}, folder)


def test_backbone_begins_with_its_file_and_learns(trained: tuple[Any, Path], body: Path) -> None:
    from safetensors.torch import load_file

    (training, begun), _ = trained
    first = "layer1.0.conv1.weight"
    torch.testing.assert_close(begun[f"backbone.body.{first}"], load_file(body)[first])
    assert not torch.equal(training.head.module.state_dict()[f"backbone.body.{first}"], begun[f"backbone.body.{first}"])
    assert training.state.made_for["backbone"]["body"] == sha256_of(body)


def test_file_finds_objects_and_outlines_clicks_without_the_frozen_encoder(trained: tuple[Any, Path]) -> None:
    (training, _), path = trained
    images = np.random.default_rng(0).integers(0, 255, (2, 256, 256, 3), np.uint8)
    segmenter = build_segmenter(ModelSettings(model="sapnet", weights=str(path)))
    assert segmenter.encoder is None
    assert len(segmenter.find(PairImages(images), mpp=0.5, min_score=0.0, max_objects=5)) == 2
    selector = build_selector(ModelSettings(model="sapnet-select", weights=str(path)))
    embedding = selector.encode(PairImages(images))
    module = training.head.module.eval()
    with torch.no_grad():
        expected = module.levels(torch.from_numpy(images).permute(0, 3, 1, 2))
    torch.testing.assert_close(embedding.levels[0], expected[0], rtol=1e-4, atol=1e-4)
    one = np.array([[[128.0, 128.0]]], np.float32)
    asked = PromptBatch(np.zeros(1, np.int64), points=one, point_labels=np.ones((1, 1), np.int64))
    assert selector.decode(embedding, asked).logits.shape == (1, 256, 256)


def test_patch_is_seen_the_same_whatever_else_is_asked_about(trained: tuple[Any, Path]) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), np.uint8)
    segmenter = build_segmenter(ModelSettings(model="sapnet", weights=str(trained[1])))
    options = {"mpp": 0.5, "min_score": 0.0, "max_objects": 5}
    together = segmenter.find(PairImages(images), **options)
    alone = [segmenter.find(PairImages(images[n : n + 1]), **options)[0] for n in range(3)]
    for one, same in zip(together, alone, strict=True):
        assert [group.scores.tolist() for group in one] == [group.scores.tolist() for group in same]


def test_embedding_has_no_backbone_to_fill(body: Path) -> None:
    with pytest.raises(TrainingError, match="an embedding has no backbone of its own"):
        load_recipe("sapnet", overrides={"body": str(body)})


def test_unknown_backbone_is_named(write_tiles: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    source = Joined([open_tiles(write_tiles(tmp_path / "tiles", {"a": "train"}))], judged=False)
    recipe = load_recipe("sapnet", overrides={**QUICK, "features": "no_such_network"})
    with pytest.raises(WorkflowError, match=r"^features: timm has no backbone no_such_network"):
        Training(recipe, source, tmp_path / "run", tmp_path / "embeddings")
