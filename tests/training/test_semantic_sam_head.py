"""Semantic-SAM's training: what a click means, which answer learns what, what nobody knows, and the file it leaves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks.nested_scenes import OBJECTS, PARTS, draw_nested_scene
from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.semantic_sam.answers import BOX, POINT, Answers
from wsi_pipeline.training import semantic_sam_head
from wsi_pipeline.training.data.augment import Augmentation, augment
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo
from wsi_pipeline.training.many_to_many import Targets, match, spread_by_size
from wsi_pipeline.training.point_sampling import PointSampling
from wsi_pipeline.training.semantic_sam_batches import Asking, draw_prompts, holders, targets_of
from wsi_pipeline.training.semantic_sam_head import SemanticHead, overlaps
from wsi_pipeline.training.semantic_sam_loss import class_loss, semantic_losses
from wsi_pipeline.training.systems import load_recipe

CPU = torch.device("cpu")
INFO = SampleInfo("s", "p", "train", ("gland",), "CC0-1.0")


def nested(known: np.ndarray | None = None) -> Sample:
    """A gland of 200 px, a cell of 60 px in it and a nucleus of 20 px in that, on 256 px."""
    labels = np.zeros((256, 256), np.int32)
    labels[20:220, 20:220], labels[40:100, 40:100], labels[60:80, 60:80] = 1, 2, 3
    picture = Picture(
        np.zeros((256, 256, 3), np.uint8), labels, np.ones(labels.shape, bool) if known is None else known
    )
    return Sample(INFO, picture, ("gland", "", "nucleus"), parents=(0, 1, 2))


def asked(sample: Sample, *, count: int = 40, boxes: float = 0.0, most: int = 6, smallest: int = 16) -> Any:
    return draw_prompts(sample, Asking(count, boxes, most, smallest), np.random.default_rng(0))


def test_an_object_covers_what_lies_in_it() -> None:
    covers = holders(3, (0, 1, 2))
    assert covers[1:, 1:].tolist() == [[True, True, True], [False, True, True], [False, False, True]]
    assert not covers[0].any()
    assert not covers[:, 0].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(*[st.integers(0, number) for number in range(n)])))
def test_objects_cover_the_same_as_their_chains_of_parents_say(parents: tuple[int, ...]) -> None:
    covers = holders(len(parents), parents)
    for label in range(1, len(parents) + 1):
        chain, above = [], label
        while above:
            chain.append(above)
            above = parents[above - 1]
        assert np.flatnonzero(covers[:, label]).tolist() == sorted(chain)


def test_a_click_means_everything_around_it() -> None:
    sample, prompts = nested(), asked(nested())
    px = (prompts.boxes[:, :2] * 256).astype(int)
    innermost = sample.high.labels[px[:, 1], px[:, 0]]
    for click, label in enumerate(innermost):
        assert sorted(prompts.target[prompts.click == click]) == list(range(1, label + 1))
    assert set(innermost) == {1, 2, 3}
    assert (prompts.kinds == POINT).all()


def test_learning_one_to_one_means_the_object_a_click_was_drawn_in() -> None:
    prompts = asked(nested(), most=1)
    assert prompts.click.tolist() == list(range(40))
    assert set(prompts.target) == {1, 2, 3}


def test_a_box_means_its_object_alone_and_is_near_it() -> None:
    prompts = asked(nested(), boxes=1.0)
    assert (prompts.kinds == BOX).all()
    assert prompts.click.tolist() == list(range(40))
    side = np.array([0, 200, 60, 20])[prompts.target] / 256
    assert (np.abs(prompts.boxes[:, 2] - side) <= 0.4 * side + 1e-9).all()


def test_small_objects_are_nobodys_target() -> None:
    assert set(asked(nested(), smallest=401).target) == {1, 2}
    assert asked(nested(), smallest=256**2) is None


def test_nothing_is_clicked_where_nobody_knows() -> None:
    known = np.ones((256, 256), bool)
    known[:, 70:] = False
    prompts = asked(nested(known))
    assert (prompts.boxes[:, 0] * 256 < 70).all()
    targets = targets_of(nested(known), prompts, ((), ()))
    assert not targets.masks[:, :, 70:].any()
    assert (targets.unknown[:, :, 70:] == 1).all()


def test_masks_of_targets_are_whole_and_each_name_is_told_to_one_head() -> None:
    prompts = asked(nested())
    targets = targets_of(nested(), prompts, (("gland",), ("nucleus",)))
    gland, cell, nucleus = (torch.from_numpy(prompts.target == label) for label in (1, 2, 3))
    assert (targets.masks[gland].sum((1, 2)) == 200**2).all()
    assert (targets.masks[cell].sum((1, 2)) == 60**2).all()
    torch.testing.assert_close(targets.boxes[nucleus][0], torch.tensor([70.0, 70, 20, 20]) / 256)
    assert targets.objects.tolist() == [0 if label == 1 else -1 for label in prompts.target]
    assert targets.parts.tolist() == [0 if label == 3 else -1 for label in prompts.target]


def test_augmentation_keeps_what_lies_in_what() -> None:
    pair = augment(nested(), Augmentation(128), np.random.default_rng(0))
    assert pair.parents == (0, 1, 2)


def test_targets_of_a_click_are_learned_by_different_answers() -> None:
    costs = torch.tensor([[0.0, 1, 9, 9, 9, 9], [0.0, 5, 9, 9, 9, 9], [0.0, 1, 9, 9, 9, 9]])
    # the second one has more to lose; the third is of another click
    assert match(costs, torch.tensor([0, 0, 1]), 2).tolist() == [1, 0, 0]


def answers(masks: torch.Tensor) -> Answers:
    """Of one click."""
    return Answers(masks[None, None], torch.zeros(1, 1, 6), torch.full((1, 1, 6, 4), 0.3), None, None)


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=4))
def test_by_size_every_answer_learns_the_first_from_the_largest_mask(sides: list[list[int]]) -> None:
    click = torch.tensor([number for number, some in enumerate(sides) for _ in some])
    masks = torch.zeros(len(click), 40, 40)
    for row, side in enumerate(side for some in sides for side in some):
        masks[row, :side, :side] = 1
    boxes, none = torch.zeros(len(click), 4), torch.full((len(click),), -1)
    spread, token = spread_by_size(Targets(click, masks, torch.zeros_like(masks), boxes, none, none))
    assert token.tolist() == list(range(6)) * len(sides)
    assert spread.click.tolist() == [number for number in range(len(sides)) for _ in range(6)]
    areas = spread.masks.sum(dim=(1, 2)).reshape(-1, 6)
    assert (areas.diff(dim=1) <= 0).all()
    for row, some in zip(areas.tolist(), sides, strict=True):
        assert set(row) == {float(side**2) for side in some}


def test_px_that_nobody_knows_change_no_loss() -> None:
    unknown = torch.zeros(1, 32, 32)
    unknown[..., 16:] = 1
    losses = []
    for beyond in (0.0, 1.0):
        truth = torch.zeros(1, 32, 32)
        truth[:, 8:24, 4:12], truth[:, 8:24, 20:] = 1, beyond
        targets = Targets(
            torch.tensor([0]), truth, unknown, torch.full((1, 4), 0.4), torch.tensor([-1]), torch.tensor([-1])
        )
        said = answers(torch.linspace(-2, 2, 6)[:, None, None].expand(6, 32, 32))
        losses.append(semantic_losses([said], targets, PointSampling(256), torch.Generator().manual_seed(0)))
    assert losses[0] == losses[1]


def test_a_head_that_is_not_told_learns_nothing() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    assert class_loss(logits, torch.tensor([-1, -1])) == 0
    one = class_loss(logits, torch.tensor([1, -1]))
    one.backward()
    assert logits.grad is not None
    assert not logits.grad[1].any()
    assert logits.grad[0].any()


def test_overlaps_are_with_the_answers_to_the_own_click() -> None:
    masks = torch.full((6, 32, 32), -1.0)
    masks[4, :16] = 1
    truth = torch.zeros(1, 32, 32)
    truth[:, :16] = 1
    targets = Targets(torch.tensor([0]), truth, torch.zeros(1, 32, 32), torch.zeros(1, 4), *torch.tensor([[-1], [-1]]))
    assert overlaps(answers(masks), targets).tolist() == [[0, 0, 0, 0, 1, 0]]


def test_a_name_is_of_an_object_or_of_a_part() -> None:
    with pytest.raises(TrainingError, match="gland is an object and a part"):
        load_recipe("semantic-sam", overrides={"network.objects": ["gland"], "network.parts": ["gland"]})


class Nested:
    """The same patch three times; the last one is for validation."""

    def __init__(self) -> None:
        self.infos = tuple(
            SampleInfo(f"s{number}", f"p{number}", "val" if number == 2 else "train", ("gland",), "CC0-1.0")
            for number in range(3)
        )

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.infos[index], nested().high, nested().classes, parents=nested().parents)


QUICK = {
    "epochs": 2,
    "clicks": 4,
    "points": 64,
    "judged_clicks": 8,
    "network.width": 32,
    "network.ffn": 32,
    "network.layers": 2,
    "network.objects": ["gland"],
    "optimiser.warm_up": 0,
}


def test_a_run_leaves_a_file_that_says_how_coarse_its_answers_are(
    small_sam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsi_pipeline.models.semantic_sam.file import SemanticFacts, load_semantic_sam
    from wsi_pipeline.training.loop import Training
    from wsi_pipeline.training.result import write_result
    from wsi_pipeline.training.sources import Joined

    monkeypatch.setattr(semantic_sam_head, "load_sam", lambda plan: small_sam())
    recipe = load_recipe("semantic-sam", overrides=QUICK)
    runs = []
    for name, epochs in (("whole", [2]), ("stopped", [1, 2])):
        for last in epochs:
            some = recipe.model_copy(update={"epochs": last})
            training = Training(some, Joined([Nested()]), tmp_path / name, tmp_path / "embeddings")
            training.run()
        runs.append(training)
    for key, value in runs[0].state.trained.items():
        torch.testing.assert_close(runs[1].state.trained[key], value, rtol=0, atol=0)
    assert 0 <= runs[0].best["best_iou"] <= 1
    path = write_result(runs[0], {"nested": Nested()}, tmp_path)
    facts = SemanticFacts.read(path)
    assert sorted(facts.levels) == list(range(6))
    head = runs[0].head
    assert isinstance(head, SemanticHead)
    assert facts.settings == head.module.settings
    assert load_semantic_sam(path).settings.objects == ("gland",)


def test_scenes_are_nested_and_the_same_for_a_seed() -> None:
    scene = draw_nested_scene(3, size=256, glands=(1, 2))
    assert np.array_equal(scene.image, draw_nested_scene(3, size=256, glands=(1, 2)).image)
    assert len(scene.parents) == len(scene.names) >= scene.labels.max()
    above: dict[str, set[str]] = {name: set() for name in (*OBJECTS, *PARTS)}
    for name, parent in zip(scene.names, scene.parents, strict=True):
        above[name].add(scene.names[parent - 1] if parent else "")
    assert above["gland"] == {""}
    assert above["lumen"] == above["goblet cell"] | above["absorptive cell"] == {"gland"}
    assert above["nucleus"] | above["cytoplasm"] == {"goblet cell", "absorptive cell"}
