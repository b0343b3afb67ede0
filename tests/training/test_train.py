"""Training stops, goes on and ends as promised; it is tried on three small tiles with discs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wsi_pipeline.errors import DatasetError, TrainingError
from wsi_pipeline.models.builders import build
from wsi_pipeline.models.encoding import PatchEncoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.preprocess import UNIT_PIXELS
from wsi_pipeline.models.registry import build_segmenter, prompt_kinds
from wsi_pipeline.models.resolve import hq_sam_plan, pa_sam_plan, wsi_sam_plan
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.segment.questions import COARSE_LOGIT
from wsi_pipeline.training.batches import View, windows_around
from wsi_pipeline.training.checkpoint import Average
from wsi_pipeline.training.data.tiles import TileFolder, open_tiles
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.heads import HEADS
from wsi_pipeline.training.known_px import logits_where_known, sampled_loss, uncertainty_where_known
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.losses import pa_loss, wsi_loss
from wsi_pipeline.training.prompt_simulation import tight_boxes
from wsi_pipeline.training.prompted_batches import POINT_REACH, PromptedBatches, prompts_of
from wsi_pipeline.training.prompted_head import PromptedHead
from wsi_pipeline.training.recipe import Optimiser, Recipe
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.training.systems import load_recipe
from wsi_pipeline.workflow import SegmentSettings

WriteTiles = Callable[..., Path]
CPU = torch.device("cpu")
PLANS = {"hq-sam": hq_sam_plan, "pa-sam": pa_sam_plan, "wsi-sam": wsi_sam_plan}
QUICK = {"epochs": 2, "variants": 1, "objects": 1, "accumulate": 1, "patience": 9}


@pytest.fixture(scope="module")
def tiles(write_tiles: WriteTiles, tmp_path_factory: pytest.TempPathFactory) -> TileFolder:
    return open_tiles(write_tiles(tmp_path_factory.mktemp("tiles"), {"a": "train", "b": "train", "c": "val"}))


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests, so that every patch is encoded once."""
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def whole(tiles: TileFolder, embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """HQ-SAM, two epochs in one go."""
    return train(tiles, tmp_path_factory.mktemp("whole"), embeddings)


def train(tiles: TileFolder, output: Path, embeddings: Path, system: str = "hq-sam", **changes: Any) -> Training:
    recipe = load_recipe(system, None, QUICK | changes)
    training = Training(recipe, Joined([tiles]), output, embeddings)
    training.run()
    return training


def tensors_of(training: Training) -> Iterator[Tensor]:
    """All tensors of a checkpoint."""
    state = training.state
    for part in (state.trained, state.average, state.best):
        yield from part.values()
    for moments in state.optimiser["state"].values():
        yield from moments.values()


def head_of(system: str, **changes: Any) -> tuple[Recipe, PromptedHead]:
    recipe = load_recipe(system, None, QUICK | changes)
    return recipe, HEADS[system](recipe, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("system", PLANS)
def test_result_loads_as_weights_of_a_segment_section(
    tiles: TileFolder, embeddings: Path, whole: Training, tmp_path: Path, system: str
) -> None:
    training = whole if system == "hq-sam" else train(tiles, tmp_path, embeddings, system, epochs=1)
    path = write_result(training, {"tiles": tiles}, tmp_path)
    settings = SegmentSettings(model=system, weights=str(path), backbone="lite-medsam")
    plan = PLANS[system](settings)
    assert training.head.kind in plan.files
    assert build(system, plan, settings, device="cpu", dtype="fp32").input_size == 256
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["data"]["tiles"][0]["licence"] == "CC0-1.0"
    assert card["groups"] == {"train": ["a", "b"], "val": ["c"]}
    assert set(card["backbone"]) == {"sam"}
    assert card["metrics"]["before training"]["boundary_iou"] == training.state.history[0]["boundary_iou"]
    assert card["metrics"]["result"]["epoch"] >= 1


@pytest.mark.slow
def test_run_that_was_stopped_gives_the_same_weights(
    tiles: TileFolder, embeddings: Path, whole: Training, tmp_path: Path
) -> None:
    train(tiles, tmp_path, embeddings, epochs=1)
    parts = train(tiles, tmp_path, embeddings)
    assert parts.state.epoch == 2
    assert (tmp_path / "curves.csv").read_text().count("\n") == 4
    pairs = list(zip(tensors_of(whole), tensors_of(parts), strict=True))
    assert len(pairs) > 100
    assert all(torch.equal(one, other) for one, other in pairs)
    with pytest.raises(TrainingError, match=r"checkpoint.pt: was made with another recipe. Give another --output"):
        train(tiles, tmp_path, embeddings, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("system", PLANS)
def test_loss_of_one_batch_falls_and_the_backbone_stays(tiles: TileFolder, embeddings: Path, system: str) -> None:
    recipe, head = head_of(system, trained="branch")
    features = FrozenFeatures.of(head.sam, embeddings, CPU)
    batches = PromptedBatches(recipe, Joined([tiles]), features, CPU, pairs=head.pairs, margin=head.margin)
    (asked_batch,) = batches.training([0], 1, 1, 0)
    before = {name: value.clone() for name, value in head.module.state_dict().items()}
    backbone = {name: value.clone() for name, value in head.sam.image_encoder.state_dict().items()}
    optimiser = torch.optim.AdamW(head.trained.values(), lr=1e-4)
    head.begin(1)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = head.loss(asked_batch._replace(generator=torch.Generator().manual_seed(1)))
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    # PA-SAM's loss jumps once: its two maps share a mask where their uncertainty is no longer exactly 1/2 everywhere
    assert losses[-1] < losses[1], losses
    after = head.module.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert moved <= set(head.trained)
    assert not any("transformer" in name or "iou" in name for name in moved)
    assert all(torch.equal(backbone[name], value) for name, value in head.sam.image_encoder.state_dict().items())


def test_published_tensors_are_trained() -> None:
    """Counts of the papers' code: 448,512 (HQ-SAM on TinyViT; WSI-SAM twice), 1,007,008 (PA-SAM)."""
    for system, count in (("hq-sam", 448_512), ("wsi-sam", 2 * 448_512), ("pa-sam", 1_007_008)):
        _, head = head_of(system, trained="branch")
        assert sum(value.numel() for value in head.trained.values()) == count
        assert all(value.requires_grad for value in head.trained.values())
        assert sum(value.requires_grad for value in head.module.parameters()) == len(head.trained)


def test_whole_decoder_can_be_trained() -> None:
    _, head = head_of("hq-sam", trained="decoder")
    assert len(head.trained) == len(list(head.module.parameters()))


def losses_of(logits: Tensor, view: View) -> dict[str, Tensor]:
    """The loss of each system for maps (1, 1, 256, 256) on one patch, or on two alike."""
    large, target = logits_where_known(logits, view), view.targets
    uncertainty = uncertainty_where_known(logits.sigmoid(), view)
    return {
        "hq-sam": sampled_loss(logits, view, torch.Generator().manual_seed(1)).total(),
        "wsi-sam": wsi_loss(large, large, target, target).total(),
        "pa-sam": pa_loss(large, large, large, uncertainty, target).total(),
    }


@pytest.mark.parametrize("system", PLANS)
def test_px_that_nobody_knows_do_not_change_the_loss(system: str) -> None:
    known = torch.ones(1, 1, 256, 256, dtype=torch.bool)
    known[..., 100:, :] = False
    disc = torch.from_numpy(np.hypot(*(np.mgrid[:256, :256] - 100)) < 60)
    view = View(EncoderOutput(torch.zeros(1), torch.zeros(1)), (disc & known).float(), known)
    logits = torch.randn((1, 1, 256, 256), generator=torch.Generator().manual_seed(0))
    values = []
    for changed in (0.0, 9.0):
        maps = (logits + changed * ~known).requires_grad_()
        loss = losses_of(maps, view)[system]
        (gradient,) = torch.autograd.grad(loss, maps)
        assert not gradient[..., 100:, :].any()
        assert gradient[..., :100, :].any()
        values.append(float(loss.detach()))
    assert values[0] == values[1] > 0


def test_loss_that_is_not_a_number_stops(tiles: TileFolder, embeddings: Path, tmp_path: Path) -> None:
    training = Training(load_recipe("hq-sam", None, QUICK), Joined([tiles]), tmp_path, embeddings)
    with torch.no_grad():
        training.head.trained["hf_token.weight"].fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"^hq-sam: the loss is nan in epoch 1, step 1 \([ab]\)\. Look at these"):
        training.run()


class Mean(torch.nn.Module):
    """Stands for an image encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels: Tensor) -> EncoderOutput:
        mean = self.scale * pixels.mean((1, 2, 3))
        return EncoderOutput(mean.view(-1, 1, 1, 1), mean.view(-1, 1, 1, 1) + 1)


def test_patch_is_encoded_once_and_can_be_trained_on(tmp_path: Path) -> None:
    def features() -> FrozenFeatures:
        encoder = PatchEncoder(Mean(), UNIT_PIXELS, 8, signature="mean", device=CPU, dtype=torch.float32)
        encoder.keep_in(tmp_path)
        return FrozenFeatures(encoder)

    patch = np.full((1, 8, 8, 3), 51, np.uint8)
    first, later = features(), features()
    seen, found = first(patch), later(patch)
    assert (first.encoder.computed, later.encoder.computed) == (1, 0)
    assert seen.embedding.item() == found.embedding.item() == pytest.approx(0.2)
    assert not found.embedding.is_inference()


def test_group_in_two_splits_is_refused(write_tiles: WriteTiles, tmp_path: Path) -> None:
    one = open_tiles(write_tiles(tmp_path / "one", {"a": "train"}, group="p"))
    other = open_tiles(write_tiles(tmp_path / "other", {"b": "val"}, group="p"))
    with pytest.raises(DatasetError, match="split leak: group p is in train and val"):
        Joined([one, other])


def test_missing_validation_split_is_said(write_tiles: WriteTiles, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no samples of the split val \(found: none, train\)"):
        Joined([open_tiles(write_tiles(tmp_path, {"a": "train", "b": ""}))])


def test_prompts_are_drawn_as_the_recipe_says_whatever_the_backbone_takes() -> None:
    made = prompts_of(load_recipe("hq-sam", None, {"prompts.box": 1, "prompts.point": 2, "prompts.mask": 0}))
    assert (made.weights.box, made.weights.point, made.weights.mask) == (1, 2, 0)
    assert made.mask_values == (-COARSE_LOGIT, COARSE_LOGIT)
    with pytest.raises(TrainingError, match=r"prompts: masks come with boxes, which are never drawn alone. Raise box"):
        load_recipe("hq-sam", None, {"prompts.box": 0})
    none = {"prompts.box": 0, "prompts.point": 0, "prompts.mask": 0}
    with pytest.raises(TrainingError, match=r"prompts: no prompts are ever drawn. Raise box, point or mask"):
        load_recipe("hq-sam", None, none)


def test_windows_are_around_boxes_and_wider_around_what_only_points_are_in(tmp_path: Path) -> None:
    patients = {f"p{number}": "train" for number in range(4)}
    recipe = load_recipe("hq-sam", None, {"batch": 4, "objects": 3, "judged": False})
    source = Joined([open_tiles(_several_squares(tmp_path, patients))], judged=False)
    near, far = (
        PromptedBatches(recipe, source, _nothing_seen, CPU, margin=margin) for margin in (0.25, 0.25 * POINT_REACH)
    )
    kinds = set()
    for epoch in range(1, 9):
        pairs = list(zip(*(batches.training(range(4), epoch, 1, 0) for batches in (near, far)), strict=True))
        assert sum(part.share for part, _ in pairs) == pytest.approx(1)
        for part, wide in pairs:
            prompts, windows = part.asked.high, part.windows.high
            boxes = prompts.boxes if prompts.boxes is not None else tight_boxes(part.batch.high.targets > 0.5)
            assert windows is not None
            assert (4 * windows.rows[..., 0] <= boxes[..., 1]).all()
            assert (4 * windows.rows[..., -1] + 4 >= boxes[..., 3]).all()
            if prompts.boxes is None:
                assert windows.rows.shape[-1] == windows_around(boxes, 0.25 * POINT_REACH, 256).rows.shape[-1]
            else:
                assert windows.rows.shape[-1] < wide.windows.high.rows.shape[-1]
            assert prompts.leading == part.batch.high.targets.shape[:2]
            kinds.add((prompts.boxes is not None, prompts.points is not None, prompts.masks is not None))
    assert len(kinds) > 3


def _several_squares(folder: Path, patients: dict[str, str]) -> Path:
    """Tiles of 256 px with nine squares each."""
    labels = np.zeros((256, 256), np.uint8)
    for number in range(9):
        y, x = 20 + 75 * (number // 3), 20 + 75 * (number % 3)
        labels[y : y + 40, x : x + 40] = number + 1
    rows = ["file,mask,split,group,object_class,licence"]
    for patient, split in patients.items():
        Image.fromarray(np.full((256, 256, 3), 200, np.uint8)).save(folder / f"{patient}.png")
        Image.fromarray(labels).save(folder / f"{patient}.mask.png")
        rows.append(f"{patient}.png,{patient}.mask.png,{split},{patient},nucleus,CC0-1.0")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def _nothing_seen(images: np.ndarray) -> EncoderOutput:
    return EncoderOutput(torch.zeros(len(images), 1), torch.zeros(len(images), 1))


@pytest.mark.slow
def test_a_head_can_be_asked_what_it_was_trained_on_and_says_so_in_its_file(
    tiles: TileFolder, embeddings: Path, whole: Training, tmp_path: Path
) -> None:
    points = train(tiles, tmp_path, embeddings, epochs=1, **{"prompts.mask": 0})
    for training, kinds in ((whole, {"box", "mask", "point"}), (points, {"box", "point"})):
        path = write_result(training, {"tiles": tiles}, tmp_path)
        settings = SegmentSettings(model="hq-sam", weights=str(path), backbone="lite-medsam")
        assert prompt_kinds(settings) == kinds
        model = build_segmenter(settings, dtype="fp32", device="cpu")
        assert isinstance(model, BatchedSegmenter)
        assert model.prompt_kinds == kinds


def test_recipe_file_changes_single_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optimiser: {rate: 0.01}\nepochs: 3\n")
    recipe = load_recipe("wsi-sam", path, {"seed": 7})
    assert (recipe.optimiser.rate, recipe.optimiser.weight_decay, recipe.epochs, recipe.seed) == (0.01, 0.01, 3, 7)
    path.write_text("epoch: 3\n")
    with pytest.raises(TrainingError, match=r"mine.yaml: unknown key epoch"):
        load_recipe("wsi-sam", path)
    with pytest.raises(TrainingError, match=r"no such system: sam. Train one of hq-sam, pa-sam, wsi-sam"):
        load_recipe("sam")


def test_rate_rises_at_first_and_falls_in_steps() -> None:
    optimiser = Optimiser(rate=1e-3, decay_after=10, warm_up=4)
    assert optimiser.rate_in(1, 0) == pytest.approx(2.5e-4)
    assert [round(optimiser.rate_in(epoch, 4), 6) for epoch in (1, 10, 11, 21)] == [1e-3, 1e-3, 1e-4, 1e-5]


def test_average_follows_at_once_and_later_slowly() -> None:
    average = Average(0.5, {"x": torch.zeros(1)})
    average.update({"x": torch.ones(1)})
    assert average.values["x"].item() == pytest.approx(0.9)
    average.updates = 1000
    average.update({"x": torch.zeros(1)})
    assert average.values["x"].item() == pytest.approx(0.45)
