"""LoRA-SAM's training: what counts as known, what moves, how epochs are judged, and the file it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.domain_decoder.decoder import DecoderFacts, DomainDecoder, DomainMaps
from wsi_pipeline.models.lora_sam.box_heads import Truth
from wsi_pipeline.models.lora_sam.build import build_lora_sam
from wsi_pipeline.models.lora_sam.file import load_state, read_facts
from wsi_pipeline.training import lora_head, lora_loss
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.loop import Training
from wsi_pipeline.training.lora_batches import PatchBatches, truth_of
from wsi_pipeline.training.lora_head import LoraHead
from wsi_pipeline.training.lora_loss import lora_losses
from wsi_pipeline.training.recipe import Recipe
from wsi_pipeline.training.recompute import recompute_blocks
from wsi_pipeline.training.result import write_result
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.training.systems import load_recipe

CPU = torch.device("cpu")
ROUTES = ["anchor-prompter", "instance", "domain-decoder"]
QUICK = {
    "epochs": 2,
    "accumulate": 1,
    "patience": 9,
    "objects": 4,
    "lora.inner_width": 16,
    "lora.width": 16,
    "lora.finest": 2,
    "lora.box_width": 16,
    "optimiser.warm_up": 0,
    "optimiser.rate": 2e-3,
}


class Scene:
    """Three patches of 256 px, two dark discs on each; the last one is for validation."""

    def __init__(self, *names: tuple[str, ...]) -> None:
        names = names or (("nucleus",),) * 3
        self.infos = tuple(
            SampleInfo(f"s{number}", f"p{number}", "val" if number == 2 else "train", of, "CC0-1.0")
            for number, of in enumerate(names)
        )

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        y, x = np.mgrid[:256, :256]
        labels = np.zeros((256, 256), np.int32)
        for number, (cx, cy) in enumerate([(90 + 8 * index, 80), (170, 160)], start=1):
            labels[(x - cx) ** 2 + (y - cy) ** 2 < 30**2] = number
        image = np.where((labels > 0)[..., None], np.uint8(90), np.uint8(220)).repeat(3, axis=2)
        info = self.infos[index]
        return Sample(info, Picture(image, labels, np.ones(labels.shape, bool)), info.class_names[:1] * 2)


@pytest.fixture(autouse=True)
def small(small_sam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on a small network."""
    monkeypatch.setattr(lora_head, "load_sam", lambda plan: small_sam())


def recipe_of(**changes: Any) -> Recipe:
    return load_recipe("lora-sam", None, QUICK | changes)


def head_of(**changes: Any) -> tuple[Recipe, LoraHead]:
    recipe = recipe_of(**changes)
    return recipe, LoraHead(recipe, CPU)


def sample(labels: np.ndarray, *classes: str, known: np.ndarray | None = None) -> Sample:
    known = np.ones(labels.shape, bool) if known is None else known
    info = SampleInfo("s", "p", "train", tuple(sorted(set(classes))), "CC0-1.0")
    return Sample(info, Picture(np.zeros((*labels.shape, 3), np.uint8), labels, known), classes)


def test_objects_have_boxes_and_classes_of_the_recipe() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[2:12, 5:25], labels[20:30, 20:30], labels[30:38, 2:10] = 1, 2, 3
    truth = truth_of(sample(labels, "gland", "nucleus", "vessel"), ("nucleus", "gland"), 16, CPU)
    assert truth.boxes.tolist() == [[5, 2, 25, 12], [20, 20, 30, 30]]
    assert truth.labels.tolist() == [2, 1]
    assert truth.masks.sum((1, 2)).tolist() == [200, 100]
    assert truth.known.all(), "objects of other classes are background"
    nameless = truth_of(sample(labels, "gland", "nucleus", "vessel"), (), 16, CPU)
    assert nameless.labels.tolist() == [1, 1, 1]


def test_of_tiny_objects_and_unknown_px_nothing_is_learnt() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[2:4, 2:4], labels[20:30, 20:40] = 1, 2
    known = np.ones((40, 40), bool)
    known[:, 35:] = False
    truth = truth_of(sample(labels, "a", "a", known=known), (), 16, CPU)
    assert truth.boxes.tolist() == [[20, 20, 35, 30]]
    assert not truth.known[2:4, 2:4].any()
    assert not truth.known[:, 35:].any()
    assert truth.known.sum() == 40 * 35 - 4


def test_samples_that_are_not_annotated_for_all_classes_are_refused() -> None:
    source = Joined([Scene(("nucleus",), ("gland", "nucleus"), ("gland", "nucleus"))])
    with pytest.raises(TrainingError, match=r"classes: s0 is not annotated for gland, which would count as background"):
        PatchBatches(recipe_of(classes=["nucleus", "gland"]), source, CPU)


def test_batches_depend_on_epoch_and_number_only() -> None:
    batches = PatchBatches(recipe_of(), Joined([Scene()]), CPU)
    (one,), (same,), (later,) = (batches.training([0], epoch, 1, 0) for epoch in (1, 1, 2))
    assert torch.equal(one.pixels, same.pixels)
    assert one.seed == same.seed != later.seed
    assert not torch.equal(one.pixels, later.pixels)
    (plain,) = batches.validation(2)
    assert torch.equal(plain.pixels[0].permute(1, 2, 0).byte(), torch.from_numpy(Scene()[2].high.image))


@pytest.mark.parametrize("route", ROUTES)
def test_loss_of_one_batch_falls_and_the_frozen_weights_stay(route: str) -> None:
    recipe, head = head_of(**{"lora.route": route})
    (part,) = PatchBatches(recipe, Joined([Scene()]), CPU).validation(0)
    before = {name: value.clone() for name, value in head.module.state_dict().items()}
    optimiser = torch.optim.AdamW(head.trained.values(), lr=3e-3)
    head.begin(1)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = head.loss(part)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0], losses
    moved = {name for name, value in head.module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= set(head.trained)
    of_encoder = {name for name in moved if name.startswith("image_encoder.")}
    assert of_encoder
    assert all("lora_" in name for name in of_encoder)
    assert not any(name.startswith("prompt_encoder.") for name in moved)


def test_a_frozen_encoder_is_the_baseline_of_rank_0() -> None:
    _, head = head_of(**{"lora.rank": 0})
    assert not any(name.startswith("image_encoder.") for name in head.trained)
    assert not any(name.startswith("adapter.") for name in head.tensors())


@pytest.mark.parametrize("route", ROUTES)
def test_px_that_nobody_knows_do_not_change_the_loss(route: str) -> None:
    """What is drawn where nothing is known may be anything."""
    _, head = head_of(**{"lora.route": route})
    known = torch.ones(256, 256, dtype=torch.bool)
    known[:, 128:] = False
    mask = torch.zeros(1, 256, 256, dtype=torch.bool)
    mask[0, 60:120, 40:100] = True
    boxes, labels = torch.tensor([[40.0, 60, 100, 120]]), torch.tensor([1])
    other = mask.clone()
    other[0, 100:, 140:] = True
    values = []
    for masks in (mask, other):
        torch.manual_seed(0)
        losses = lora_losses(
            head.module.train(), torch.zeros(1, 3, 256, 256), [Truth(boxes, labels, masks, known)], most=4, dice=1.0
        )
        values.append({name: float(value.detach()) for name, value in losses.items()})
    assert values[0] == values[1]
    assert all(value >= 0 for value in values[0].values())


def test_loss_is_the_same_for_the_same_seed_and_the_weights_begin_so_too() -> None:
    (recipe, one), (_, other) = head_of(), head_of()
    assert all(torch.equal(value, other.trained[name]) for name, value in one.trained.items())
    (part,) = PatchBatches(recipe, Joined([Scene()]), CPU).training([0], 1, 1, 0)
    one.begin(1)
    torch.manual_seed(3)
    first = float(one.loss(part).detach())
    torch.manual_seed(4)
    assert float(one.loss(part).detach()) == first
    assert float(one.loss(part._replace(seed=part.seed + 1)).detach()) != first


@pytest.mark.parametrize("route", ROUTES)
def test_loss_in_bfloat16_is_about_the_same(route: str) -> None:
    recipe, head = head_of(**{"lora.route": route, "lora.dropout": 0})
    (part,) = PatchBatches(recipe, Joined([Scene()]), CPU).validation(0)
    with torch.no_grad():
        exact = float(head.loss(part))
        with torch.autocast("cpu", torch.bfloat16):
            rough = float(head.loss(part))
    # rounding changes which boxes are proposed, and so which are drawn
    assert rough == pytest.approx(exact, rel=0.1)


def test_recomputed_blocks_give_the_same_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        recipe, head = head_of(recompute=recompute)
        (part,) = PatchBatches(recipe, Joined([Scene()]), CPU).training([0], 1, 1, 0)
        head.begin(1)
        head.loss(part).backward()
        gradients.append({name: value.grad for name, value in head.trained.items() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


def test_only_inputs_of_blocks_are_kept(small_sam: Any) -> None:
    encoder = small_sam().image_encoder
    kept: list[int] = []

    def in_memory() -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            encoder(torch.zeros(1, 3, 256, 256))
        return sum(kept)

    whole = in_memory()
    recompute_blocks(encoder)
    assert in_memory() < whole / 2


def truth_of_boxes(*boxes: tuple[int, int, int, int]) -> Truth:
    masks = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    known = torch.ones(64, 64, dtype=torch.bool)
    return Truth(torch.tensor(boxes).float(), torch.ones(len(boxes), dtype=torch.int64), masks, known)


def test_missed_and_made_up_objects_count_nothing() -> None:
    truth = truth_of_boxes((0, 0, 10, 10), (20, 20, 40, 40), (50, 50, 60, 60))
    found = truth_of_boxes((20, 20, 40, 30), (0, 0, 10, 10), (0, 40, 10, 50)).masks
    dice, boundary = lora_head._scores(found, truth)
    assert dice.tolist() == pytest.approx([1, 2 / 3, 0, 0])
    assert boundary[[0, 2, 3]].tolist() == [1, 0, 0]
    nothing = lora_head._scores(found[:0], truth)
    assert nothing.tolist() == [[0, 0, 0]] * 2


def test_what_is_found_where_nobody_looked_is_no_mistake() -> None:
    truth = truth_of_boxes((0, 0, 10, 10))
    truth.known[:, 32:] = False
    found = truth_of_boxes((0, 0, 10, 10), (40, 40, 50, 50)).masks
    assert lora_head._scores(found, truth).tolist() == [[1], [1]]


def domain_decoder_of(path: Path, backbone: str = "lite-medsam", **changes: Any) -> str:
    """An untrained one."""
    facts = DecoderFacts(**{"classes": ("nucleus",), "backbone": backbone, "early_channels": 32} | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        save_file(DomainDecoder(facts).state_dict(), path, facts.metadata())
    return str(path)


WITH_DOMAIN_DECODER = {"lora.route": "domain-decoder", "classes": ["nucleus"]}


def test_scores_are_those_of_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, head = head_of(**WITH_DOMAIN_DECODER)
    (part,) = PatchBatches(recipe, Joined([Scene()]), CPU).validation(2)
    logits = 12 - part.pixels[:, :1] / 10
    monkeypatch.setattr(head.module, "maps", lambda seen: DomainMaps(logits, (logits > 0).float()))
    head.module.eval()
    with torch.no_grad():
        dice, _ = head.scores(part)
    assert dice.tolist() == [1, 1]


def test_touching_objects_are_told_apart_in_the_maps_it_learns_from() -> None:
    left, right = truth_of_boxes((10, 10, 20, 20), (20, 10, 30, 20)).masks
    masks = torch.zeros(2, 256, 256, dtype=torch.bool)
    masks[0, :64, :64], masks[1, :64, :64] = left, right
    known = torch.ones(256, 256, dtype=torch.bool)
    truth = Truth(torch.zeros(2, 4), torch.ones(2, dtype=torch.int64), masks, known)
    target = lora_loss._target_of([truth], 1)
    assert target.masks[0, 0, 15, 18:22].tolist() == [1, 1, 1, 1]
    middle, edge = target.distances[0, 0, 15, 14], target.distances[0, 0, 15, 19:21]
    assert middle > 0.9
    assert (edge < 0.3).all()


def test_the_head_starts_from_a_trained_decoder(tmp_path: Path) -> None:
    _, random = head_of(**WITH_DOMAIN_DECODER)
    _, head = head_of(**WITH_DOMAIN_DECODER, decoder=domain_decoder_of(tmp_path / "decoder.safetensors"))
    weights = head.module.head.state_dict()
    assert any(not torch.equal(value, weights[key]) for key, value in random.module.head.state_dict().items())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        trained = DomainDecoder(head.module.head.facts).state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in trained.items())
    assert set(head.trained) >= {f"head.{key}" for key in weights}
    assert head.plan.files["domain-decoder"].name == "decoder.safetensors"


def test_a_card_names_files_without_their_folders() -> None:
    told = recipe_of(**WITH_DOMAIN_DECODER, decoder="my/folder/decoder.safetensors").on_card()
    assert (told["decoder"], told["weights"]) == ("decoder.safetensors", None)


def test_a_decoder_of_something_else_is_refused(tmp_path: Path) -> None:
    for number, changes in enumerate(({"classes": ("gland",)}, {"context_factor": 2.0}, {"backbone": "vit-b"})):
        with pytest.raises(TrainingError, match=r"is for .* not .*Set the recipe's keys to fit"):
            head_of(**WITH_DOMAIN_DECODER, decoder=domain_decoder_of(tmp_path / f"{number}.safetensors", **changes))
    with pytest.raises(TrainingError, match=r"decoder: the route instance has no domain decoder"):
        recipe_of(**{"lora.route": "instance", "decoder": "anything"})


def test_a_domain_decoder_does_not_look_at_hidden_states() -> None:
    with pytest.raises(TrainingError, match=r"looks at the embedding; set features to it, or take another route"):
        recipe_of(**{"lora.route": "domain-decoder", "lora.features": "hidden-states"})


@pytest.mark.slow
def test_training_goes_on_as_it_would_have_and_leaves_a_file_of_its_own(tmp_path: Path, small_sam: Any) -> None:
    scene, changes = Scene(), {"classes": ["nucleus"], "lora.route": "instance"}

    def train(output: Path, epochs: int) -> Training:
        training = Training(recipe_of(**changes, epochs=epochs), Joined([scene]), output, tmp_path / "embeddings")
        training.run()
        return training

    whole = train(tmp_path / "whole", 2)
    train(tmp_path / "parts", 1)
    parts = train(tmp_path / "parts", 2)
    assert all(torch.equal(value, parts.state.trained[name]) for name, value in whole.state.trained.items())
    path = write_result(whole, {"scene": scene}, tmp_path)
    facts = read_facts(path)
    assert (facts.backbone, facts.settings.classes, facts.settings.route) == ("lite-medsam", ("nucleus",), "instance")
    from wsi_pipeline.models.checkpoints import read_state_dict

    model = build_lora_sam(small_sam(), facts.settings)
    load_state(model, read_state_dict(path), where=path)
    assert all(torch.equal(value, whole.head.tensors()[key]) for key, value in read_state_dict(path).items())


def test_parts_are_changed_one_by_one_on_the_command_line() -> None:
    recipe = recipe_of(**{"lora.rank": 4, "lora.targets": ["q", "v"]})
    assert (recipe.lora.rank, recipe.lora.targets, recipe.lora.alpha) == (4, ("q", "v"), 16)
    with pytest.raises(TrainingError, match=r"unknown key lora\.ranks"):
        recipe_of(**{"lora.ranks": 4})
