"""Prompts made up from masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.modeling.prompt_encoder import PromptEncoder
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.training.prompt_simulation import (
    HQ_PROMPTS,
    PA_PROMPTS,
    WSI_PROMPTS,
    KindWeights,
    PromptGroup,
    PromptRecipe,
    PromptSimulator,
    jittered_boxes,
    neighbourhood,
    points_inside,
    spoilt_masks,
    tight_boxes,
)

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
SIZE = 64

seeds = st.integers(0, 9999)
densities = st.sampled_from([0.0, 0.01, 0.3, 1.0])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_masks(seed: int, density: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(seed)) < density


def objects(images: int, count: int = 1) -> Tensor:
    """(images, count, 64, 64) float: rectangles of different places and sizes."""
    targets = torch.zeros(images, count, SIZE, SIZE)
    for i in range(images):
        for j in range(count):
            targets[i, j, 5 + i % 20 : 30 + i % 20, 10 + j : 40 + 2 * j] = 1
    return targets


def kind(prompts: PromptTensors) -> str:
    contents = {"box": prompts.boxes, "point": prompts.points, "mask": prompts.masks}
    (name,) = (name for name, values in contents.items() if values is not None)
    return name


def drawn_kinds(groups: list[PromptGroup], count: int) -> list[str]:
    kinds = [""] * count
    for group in groups:
        for image in group.images.tolist():
            assert kinds[image] == ""
            kinds[image] = kind(group.prompts)
    assert "" not in kinds
    return kinds


def same_prompts(first: PromptTensors, second: PromptTensors) -> bool:
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(first)]
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def as_in_use(**changes: Any) -> PromptSimulator:
    any_kind = KindWeights(1, 1, 1)
    return PromptSimulator(PromptRecipe(any_kind, any_kind, to_edges=True, points=4, vary_points=True, **changes))


# published numbers


def test_tight_boxes_are_the_published_ones(recorded, golden):
    np.testing.assert_array_equal(tight_boxes(recorded.target > 0.5)[:, 0].numpy(), golden["masks_to_boxes"])


@pytest.mark.parametrize("scale", ["0.2", "1.0"])
def test_jittered_boxes_are_the_published_ones(weights, golden, scale):
    boxes = torch.tensor([[100.0, 150, 700, 620], [5, 900, 1000, 1020]])
    got = jittered_boxes(boxes, weights.uniform_input("box_noise", (2, 4), 0, 1), float(scale), 1024)
    np.testing.assert_allclose(got.numpy(), golden[f"box_noise_{scale}"], **TOLERANCE)


def test_spoilt_masks_are_the_published_ones(recorded, weights, golden):
    small = F.interpolate(recorded.target, (256, 256), mode="bilinear", align_corners=False)
    spoilt = spoilt_masks(small, weights.normal_input("mask_noise", (2, 1, 256, 256)))
    assert spoilt.sum() == golden["masks_noise/pixels"]
    np.testing.assert_array_equal(np.packbits(spoilt.numpy().ravel()), golden["masks_noise/packed"])
    assert HQ_PROMPTS.mask_values == tuple(golden["masks_noise/values"])


# boxes


@given(seeds, densities, st.integers(1, 12), st.integers(1, 12))
def test_a_tight_box_ends_at_the_outermost_px(seed, density, height, width):
    masks = random_masks(seed, density, 2, 3, height, width)
    boxes = tight_boxes(masks)
    for mask, box in zip(masks.flatten(0, 1), boxes.flatten(0, 1), strict=True):
        y, x = mask.nonzero(as_tuple=True) if mask.any() else torch.ones_like(mask).nonzero(as_tuple=True)
        assert box.tolist() == [x.min(), y.min(), x.max(), y.max()]


@given(
    corners=st.lists(st.tuples(*[st.integers(0, SIZE)] * 4), min_size=1, max_size=5),
    scale=st.floats(0, 1),
    seed=seeds,
)
def test_jittered_boxes_stay_in_the_patch_and_the_right_way_round(corners, scale, seed):
    boxes = torch.tensor(corners).view(-1, 2, 2).sort(dim=1).values.view(-1, 4).float()
    draw = torch.rand(boxes.shape, generator=seeded(seed))
    got = jittered_boxes(boxes, draw, scale, SIZE)
    assert ((got >= 0) & (got <= SIZE)).all()
    assert (got[:, 2:] >= got[:, :2]).all()
    reach = (boxes[:, 2:] - boxes[:, :2]) * scale + 1e-3
    assert ((got - boxes).abs() <= torch.cat([reach, reach], dim=1)).all()


def test_no_jitter_leaves_boxes_alone():
    boxes = torch.tensor([[3.0, 4, 50, 61]])
    torch.testing.assert_close(jittered_boxes(boxes, torch.rand(1, 4), 0.0, SIZE), boxes)


@pytest.mark.parametrize("jitter", [-0.1, 1.1])
def test_jitter_that_turns_boxes_inside_out_is_refused(jitter):
    with pytest.raises(ValueError, match="share of the box's size"):
        replace(WSI_PROMPTS, jitter=jitter)


# points


@given(seeds, densities, st.integers(3, 12), st.integers(1, 9))
def test_points_are_different_px_of_their_mask(seed, density, side, count):
    inside = random_masks(seed, density, 2, 2, side, side + 1)
    points, labels = points_inside(inside, torch.rand(inside.shape, generator=seeded(seed + 1)), count)
    for mask, xy, label in zip(inside.flatten(0, 1), points.flatten(0, 1), labels.flatten(0, 1), strict=True):
        real = xy[label == 1].long()
        assert len(real) == min(count, int(mask.sum()))
        assert mask[real[:, 1], real[:, 0]].all()
        assert len(real.unique(dim=0)) == len(real)
        assert set(label.tolist()) <= {1, -1}
        assert (xy[label == -1] == 0).all()


def test_every_px_of_a_mask_is_as_likely_as_the_others():
    inside = torch.zeros(2000, 1, 4, 4, dtype=torch.bool)
    inside[..., 1:3, :] = True
    points, _ = points_inside(inside, torch.rand(inside.shape, generator=seeded()), 2)
    hits = torch.bincount((points[..., 1] * 4 + points[..., 0]).long().flatten(), minlength=16)
    assert (hits[4:12] - 500).abs().max() < 100
    assert hits[:4].sum() == hits[12:].sum() == 0


def test_points_of_a_key_of_zero_are_still_inside():
    inside = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    inside[..., 1, 2] = True
    points, labels = points_inside(inside, torch.zeros(1, 1, 3, 3), 2)
    assert points.tolist() == [[[[2, 1], [0, 0]]]]
    assert labels.tolist() == [[[1, -1]]]


# masks


@given(seeds, st.integers(8, 56))
def test_a_mask_is_spoilt_along_its_contour_only(seed, edge):
    masks = torch.zeros(1, 1, SIZE, SIZE)
    masks[..., :edge] = 1
    spoilt = spoilt_masks(masks, torch.randn(masks.shape, generator=seeded(seed)))
    changed = (spoilt != masks.bool()).any(dim=-2)[0, 0].nonzero()
    # two cells of 8 px reach the contour from either side
    assert ((changed >= edge - 16) & (changed < edge + 16)).all()


def test_a_contour_is_really_spoilt():
    masks = objects(1)
    assert (spoilt_masks(masks, torch.randn(masks.shape, generator=seeded())) != masks.bool()).sum() > 100


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_without_a_contour_stays_as_it_is(value):
    masks = torch.full((1, 1, SIZE, SIZE), value)
    assert (spoilt_masks(masks, torch.randn(masks.shape, generator=seeded())) == bool(value)).all()


# which prompt


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (HQ_PROMPTS, {"box": 1 / 3, "point": 1 / 3, "mask": 1 / 3}),
        (PA_PROMPTS, {"box": 4 / 7, "point": 2 / 7, "mask": 1 / 7}),
        (WSI_PROMPTS, {"box": 1 / 3, "point": 1 / 3, "mask": 1 / 3}),
        (replace(HQ_PROMPTS, weights=KindWeights(1, 0, 0)), {"box": 1.0}),
    ],
)
def test_kinds_are_drawn_as_often_as_the_recipe_says(recipe, expected):
    count = 3000
    targets = torch.zeros(count, 1, 4, 4)
    kinds = drawn_kinds(PromptSimulator(replace(recipe, points=2), mask_size=8).draw(targets, seeded()), count)
    shares = {name: kinds.count(name) / count for name in set(kinds)}
    assert shares == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("recipe", "box"), [(HQ_PROMPTS, 1 / 2), (PA_PROMPTS, 2 / 3)])
def test_as_published_a_batch_with_one_small_mask_has_no_points(recipe, box):
    count = 2000
    published = PromptSimulator(replace(recipe, pad_points=False), mask_size=8)
    targets = torch.ones(count, 1, 4, 4)
    targets[7, 0, 0] = 0
    assert "point" in drawn_kinds(published.draw(targets, seeded()), count)
    targets[7, 0, 1] = 0
    kinds = drawn_kinds(published.draw(targets, seeded()), count)
    assert kinds.count("box") / count == pytest.approx(box, abs=0.03)
    assert "point" not in kinds
    targets[:] = targets[7]
    assert "point" in drawn_kinds(published.draw(targets, seeded()), count)


def test_a_small_mask_is_asked_with_the_points_it_has():
    targets = objects(2)
    targets[0] = 0
    targets[0, 0, 9, 20:24] = 1
    prompts = PromptSimulator(HQ_PROMPTS).of_kinds(["point"], targets, seeded())
    assert prompts.point_labels.tolist() == [[[1] * 4 + [-1] * 6], [[1] * 10]]
    assert prompts.points[0, 0, :4, 1].tolist() == [9] * 4


@pytest.mark.parametrize("recipe", [HQ_PROMPTS, PA_PROMPTS, WSI_PROMPTS])
def test_same_seed_same_prompts(recipe):
    targets = objects(8, 2)
    simulator = PromptSimulator(recipe)
    first, again, other = (simulator.draw(targets, seeded(seed)) for seed in (5, 5, 6))
    assert len(first) == len(again)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.images, two.images)
        assert same_prompts(one.prompts, two.prompts)
    differs = [
        not torch.equal(one.images, two.images) or not same_prompts(one.prompts, two.prompts)
        for one, two in zip(first, other, strict=False)
    ]
    assert any(differs)


def test_prompts_belong_to_their_images():
    targets = objects(30, 2)
    for images, prompts in PromptSimulator(PA_PROMPTS).draw(targets, seeded()):
        own = targets[images]
        if prompts.boxes is not None:
            assert torch.equal(prompts.boxes, tight_boxes(own > 0.5))
        elif prompts.points is not None:
            x, y = prompts.points.long().unbind(-1)
            assert (own.flatten(2).gather(2, y * SIZE + x) == 1).all()
        else:
            overlap = (F.interpolate(prompts.masks, (SIZE, SIZE)) > 0) == (own > 0.5)
            assert overlap.flatten(2).float().mean(-1).min() > 0.8


def test_boxes_are_jittered_where_the_recipe_says_so():
    targets = objects(6)
    tight = tight_boxes(targets > 0.5)
    assert torch.equal(PromptSimulator(HQ_PROMPTS).of_kinds(["box"], targets, seeded()).boxes, tight)
    assert (PromptSimulator(WSI_PROMPTS).of_kinds(["box"], targets, seeded()).boxes != tight).any(dim=-1).all()


def test_soft_targets_are_inside_above_one_half():
    targets = torch.zeros(1, 1, SIZE, SIZE)
    targets[..., 10:20, 10:20] = 0.5
    targets[..., 12:18, 12:18] = 0.6
    assert PromptSimulator(HQ_PROMPTS).of_kinds(["box"], targets, seeded()).boxes.tolist() == [[[12, 12, 17, 17]]]


@pytest.mark.parametrize("name", ["box", "point", "mask"])
def test_the_prompt_encoder_takes_every_kind(name):
    targets = objects(2, 3)
    targets[1, 2] = 0
    targets[1, 2, 4, 4] = 1
    prompts = PromptSimulator(HQ_PROMPTS).of_kinds([name], targets, seeded())
    assert kind(prompts) == name
    encoder = PromptEncoder(256, (64, 64), (1024, 1024), 16).eval()
    with torch.no_grad():
        embedded = embed_prompts(encoder, prompts)
    tokens = {"box": 2, "point": 11, "mask": 0}[name]
    assert embedded.sparse.shape == (2, 3, tokens, 256)
    assert len(embedded.dense) == (6 if name == "mask" else 1)
    hidden = 0 if embedded.padding is None else int(embedded.padding.sum())
    assert hidden == (9 if name == "point" else 0)


# pairs


def every_pair(seed: int, targets: Tensor, factor: float = 2.0) -> dict[str, tuple[PromptTensors, PromptTensors]]:
    groups = PromptSimulator(WSI_PROMPTS).draw_pairs(targets, factor, seeded(seed))
    pairs = {kind(group.high): (group.high, group.low) for group in groups}
    assert set(pairs) == {"box", "point", "mask"}
    return pairs


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_both_patches_are_asked_the_same(factor):
    for name, (high, low) in every_pair(0, objects(30), factor).items():
        assert kind(low) == name
        for asked, moved in ((high.boxes, low.boxes), (high.points, low.points)):
            if asked is not None:
                assert torch.equal(moved, asked / factor + SIZE / 2 * (1 - 1 / factor))
        if high.point_labels is not None:
            assert torch.equal(high.point_labels, low.point_labels)


def test_points_of_the_low_patch_are_on_the_object_there():
    targets = objects(30)
    (point,) = (
        group
        for group in PromptSimulator(WSI_PROMPTS).draw_pairs(targets, 2.0, seeded())
        if group.high.points is not None
    )
    low = F.pad(F.max_pool2d(targets[point.images], 2), (SIZE // 4,) * 4)
    x, y = point.low.points.long().unbind(-1)
    assert (low.flatten(2).gather(2, y * SIZE + x) == 1).all()


def test_the_low_mask_prompt_shows_the_high_one_in_its_middle():
    high, low = every_pair(0, objects(30))["mask"]
    quarter = low.masks.shape[-1] // 4
    middle = low.masks[..., quarter:-quarter, quarter:-quarter]
    agree = (F.avg_pool2d(high.masks.flatten(0, 1), 2) > 127.5) == (middle.flatten(0, 1) > 127.5)
    assert agree.float().mean() > 0.95
    assert low.masks[..., :quarter].max() == 0


# devices


@pytest.mark.parametrize("make", [tight_boxes, lambda masks: points_inside(masks, masks.float(), 3)])
def test_geometry_never_waits_for_the_device(make: Callable[[Tensor], object]):
    make(torch.zeros(2, 2, 16, 16, dtype=torch.bool, device="meta"))


# as in use


def test_masks_come_with_boxes_and_boxes_with_points_as_often_as_wanted():
    count = 4000
    groups = as_in_use(combined=0.25).draw(objects(1).repeat(count, 1, 1, 1), seeded())
    shares = {}
    for images, prompts in groups:
        given = {"box": prompts.boxes, "point": prompts.points, "mask": prompts.masks}
        shares[tuple(name for name, values in given.items() if values is not None)] = len(images) / count
    assert shares == pytest.approx(
        {
            ("box",): 1 / 3,
            ("point",): 1 / 4,
            ("box", "point"): 1 / 12,
            ("box", "mask"): 1 / 4,
            ("box", "point", "mask"): 1 / 12,
        },
        abs=0.03,
    )


def test_a_mask_comes_with_the_box_around_it():
    targets = objects(10, 2)
    prompts = as_in_use(mask_values=(-6.0, 6.0), smooth=0.5).of_kinds(["box", "mask"], targets, seeded())
    edges = tight_boxes(prompts.masks > 0)
    edges[..., 2:] += 1
    torch.testing.assert_close(prompts.boxes, edges * SIZE / 256)


def test_the_number_of_points_varies_and_without_a_box_there_is_one_at_least():
    targets = objects(200)
    for kinds, fewest in ((["point"], 1), (["box", "point"], 0)):
        found = as_in_use().of_kinds(kinds, targets, seeded()).point_labels
        assert set((found == 1).sum(-1).flatten().tolist()) == set(range(fewest, 5))
        assert set(found.flatten().tolist()) == {1, -1}


def test_points_lie_at_px_centres_of_their_object_and_negative_ones_beside_it():
    targets = objects(50, 2)
    prompts = as_in_use(negative=0.5).of_kinds(["point"], targets, seeded())
    assert prompts.points.shape == (50, 2, 8, 2)
    given = prompts.point_labels >= 0
    assert (prompts.points[given] % 1 == 0.5).all()
    x, y = prompts.points.long().unbind(-1)
    image, row = torch.arange(50)[:, None, None], torch.arange(2)[None, :, None]
    assert torch.equal(targets[image, row, y, x][given], prompts.point_labels[given].float())
    assert neighbourhood(targets > 0.5)[image, row, y, x][given].all()
    with_negative = (prompts.point_labels == 0).any(-1).float().mean()
    assert with_negative == pytest.approx(0.5, abs=0.15)


def test_around_an_object_is_its_box_grown_by_half():
    inside = torch.zeros(1, 1, 20, 30, dtype=torch.bool)
    inside[..., 8:12, 10:18] = True
    expected = torch.zeros_like(inside)
    expected[..., 6:14, 6:22] = True
    assert torch.equal(neighbourhood(inside), expected)


def test_masks_have_the_values_of_the_recipe_and_smooth_noise_comes_in_patches():
    targets = objects(20)

    def changes(simulator: PromptSimulator) -> float:
        masks = simulator.of_kinds(["mask"], targets, seeded()).masks
        assert set(masks.unique().tolist()) == {-6.0, 6.0}
        return float((masks.diff(dim=-1) != 0).float().mean())

    by_px, in_patches = (changes(as_in_use(mask_values=(-6.0, 6.0), smooth=share)) for share in (0.0, 1.0))
    assert in_patches < by_px / 2
