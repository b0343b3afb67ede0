"""The three systems' losses: published numbers, and how they behave where training meets odd masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.training.boundary import boundary_label
from wsi_pipeline.training.losses import (
    WSI_DICE,
    DiceForm,
    bce_loss,
    dice_loss,
    hq_loss,
    mask_loss,
    pa_loss,
    wsi_loss,
)
from wsi_pipeline.training.point_sampling import PointSampling, sample_points, uncertain_points

TOLERANCE = {"rel": 1e-4, "abs": 1e-4}
SIZE = 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled_hq(logits: Tensor, target: Tensor) -> Tensor:
    return hq_loss(logits, target, sample_points(logits, PointSampling(200), seeded())).total()


def both_branches(logits: Tensor, target: Tensor) -> Tensor:
    return wsi_loss(logits, logits, target, target).total()


def every_map(logits: Tensor, target: Tensor) -> Tensor:
    uncertainty = torch.full_like(logits, 0.25)
    uncertainty[..., : logits.shape[-1] // 2] = 0.75
    return pa_loss(logits, logits, logits, uncertainty, target).total()


systems = pytest.mark.parametrize("loss", [sampled_hq, both_branches, every_map])


def disc(size: int = SIZE) -> Tensor:
    """(2, 2, size, size) float: four discs."""
    axis = torch.arange(size) + 0.5
    radius = torch.tensor([0.2, 0.25, 0.3, 0.4]).view(2, 2, 1, 1) * size
    return ((axis - size / 2) ** 2 + (axis[:, None] - size / 2) ** 2 <= radius**2).float()


def odd_targets() -> dict[str, Tensor]:
    half = disc()
    half[0] = 0
    return {"empty": torch.zeros_like(half), "full": torch.ones_like(half), "some empty": half, "soft": half * 0.7}


# published numbers


def test_hq_loss_is_the_published_one(recorded, weights, golden):
    sampling = PointSampling()
    candidates = weights.uniform_input("loss_rand_0", (2, sampling.candidates, 2), 0, 1).unsqueeze(1)
    others = weights.uniform_input("loss_rand_1", (2, sampling.uniform, 2), 0, 1).unsqueeze(1)
    points = torch.cat([uncertain_points(recorded.logits, candidates, sampling.uncertain), others], dim=2)
    loss = hq_loss(recorded.logits, recorded.target, points)
    assert golden["hq/rand_calls"] == 2
    assert loss.bce.item() == pytest.approx(golden["hq/loss_mask_bce"], **TOLERANCE)
    assert loss.dice.item() == pytest.approx(golden["hq/loss_dice"], **TOLERANCE)
    assert loss.total() == loss.bce + loss.dice


def test_pa_loss_is_the_published_one(recorded, golden):
    r = recorded
    loss = pa_loss(r.logits, r.coarse, r.refined, r.uncertainty, r.target)
    got = {
        "pa/whole_bce": loss.whole.bce,
        "pa/whole_dice": loss.whole.dice,
        "pa/split_bce": loss.split.bce,
        "pa/split_dice": loss.split.dice,
        "pa/uncertain_bce": loss.uncertainty,
    }
    for name, value in got.items():
        assert value.item() == pytest.approx(golden[name], **TOLERANCE), name
    assert loss.total().item() == pytest.approx(sum(golden[name] for name in got), rel=1e-4)


def test_wsi_loss_is_the_published_one(recorded, golden):
    r = recorded
    loss = wsi_loss(r.logits, r.logits.flip(3), r.target, r.target.flip(3))
    for branch in loss:
        assert branch.dice.item() == pytest.approx(golden["wsi/dice"], **TOLERANCE)
        assert branch.bce.item() == pytest.approx(golden["wsi/bce"], **TOLERANCE)
        assert branch.dice.item() == pytest.approx(golden["wsi/dice_float64"], abs=5e-7)
        assert branch.bce.item() == pytest.approx(golden["wsi/bce_float64"], abs=5e-7)
    assert loss.total().item() == pytest.approx(2 * (golden["wsi/dice_float64"] + golden["wsi/bce_float64"]), rel=1e-6)


# behaviour


@systems
def test_the_better_the_prediction_the_lower_the_loss(loss):
    target = disc()
    losses = [loss(strength * (2 * target - 1), target).item() for strength in (-3, -1, 0, 1, 3, 6)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


@systems
@pytest.mark.parametrize("kind", ["empty", "full", "some empty", "soft"])
@pytest.mark.parametrize("strength", [0.0, 5.0, 1e4, -1e4])
def test_gradients_are_finite_for_odd_masks_and_overconfident_predictions(loss, kind, strength):
    target = odd_targets()[kind]
    logits = (strength * (2 * disc(16) - 1)).requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("form", [DiceForm(), WSI_DICE])
def test_a_right_answer_costs_nothing_even_for_empty_and_full_masks(form):
    for target in (torch.zeros(1, 1, 500), torch.ones(1, 1, 500), disc().flatten(2)):
        assert mask_loss(60 * (2 * target - 1), target, form).total() < 1e-6


@systems
def test_every_mask_of_a_batch_counts_the_same(loss):
    logits = torch.randn(2, 2, 16, 16, generator=seeded())
    target = disc()
    one_by_one = [
        loss(logits[i : i + 1, j : j + 1], target[i : i + 1, j : j + 1]).item() for i in (0, 1) for j in (0, 1)
    ]
    together = loss(logits, target).item()
    # sampled points differ with the batch
    assert together == pytest.approx(sum(one_by_one) / 4, rel=0.1 if loss is sampled_hq else 1e-5)


@systems
def test_losses_are_float32_and_the_same_in_a_region_of_lower_precision(loss):
    logits = torch.randn(2, 2, 16, 16, generator=seeded()).bfloat16()
    outside = loss(logits.float(), disc())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, disc())
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-6)


@systems
def test_losses_never_wait_for_the_device(loss):
    """Tensors without values: whatever looks at one, or brings it to the host, fails."""
    logits = torch.zeros(2, 2, 16, 16, device="meta", requires_grad=True)
    loss(logits, torch.zeros(2, 2, SIZE, SIZE, device="meta")).backward()


def test_coarse_and_refined_maps_learn_only_where_they_are_responsible():
    target = disc()
    coarse, refined = (torch.zeros(2, 2, SIZE, SIZE, requires_grad=True) for _ in range(2))
    uncertainty = torch.zeros(2, 2, SIZE, SIZE)
    uncertainty[..., : SIZE // 2] = 1
    uncertainty.requires_grad_()
    split = pa_loss(torch.zeros(2, 2, SIZE, SIZE), coarse, refined, uncertainty, target).split
    split.total().backward()
    assert (refined.grad[..., : SIZE // 2] != 0).all()
    assert (coarse.grad[..., SIZE // 2 :] != 0).all()
    assert (refined.grad[..., SIZE // 2 :] == 0).all()
    assert (coarse.grad[..., : SIZE // 2] == 0).all()
    assert uncertainty.grad is None


def test_nothing_to_refine_is_no_loss_of_the_refined_map():
    target = disc()
    maps = torch.randn(2, 2, 16, 16, generator=seeded())
    sure = torch.zeros(2, 2, 16, 16)
    split = pa_loss(maps, maps, maps, sure, target).split
    whole = pa_loss(maps, maps, maps, sure, target).whole
    torch.testing.assert_close(split.bce, whole.bce)
    torch.testing.assert_close(split.dice, whole.dice)


def test_uncertainty_is_best_along_the_contour():
    target = disc()
    label = boundary_label(target > 0.5, 0.005).float()
    maps = torch.zeros(2, 2, 16, 16)
    right, unsure, wrong = (
        pa_loss(maps, maps, maps, u, target).uncertainty.item() for u in (label, torch.full_like(label, 0.5), 1 - label)
    )
    assert right < 1e-6 < unsure < wrong


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_of_a_saturated_uncertainty_are_finite(value):
    # enlarging ones by interpolation gives values just above 1
    uncertainty = torch.full((2, 2, 17, 17), value, requires_grad=True)
    maps = torch.zeros(2, 2, 17, 17)
    loss = pa_loss(maps, maps, maps, uncertainty, disc()).uncertainty
    loss.backward()
    assert loss.isfinite()
    assert uncertainty.grad.isfinite().all()


def test_wsi_branches_are_judged_by_their_own_targets():
    target, empty = disc(), torch.zeros_like(disc())
    logits = 5 * (2 * target - 1)
    loss = wsi_loss(logits, logits, target, empty)
    assert loss.high.total() < loss.low.total()
    assert loss.total() == loss.high.total() + loss.low.total()


@pytest.mark.parametrize("form", [DiceForm(), WSI_DICE])
def test_dice_of_a_nearly_perfect_mask_does_not_drown_in_rounding(form):
    target = disc(256).flatten(2)
    logits = 11 * (2 * target - 1)
    exact = _dice_by_definition(logits.double(), target.double(), form)
    assert dice_loss(logits, target, form).item() == pytest.approx(exact.item(), rel=2e-3, abs=0)


@pytest.mark.parametrize("form", [DiceForm(), WSI_DICE])
def test_dice_is_one_minus_twice_the_overlap_by_the_sizes(form):
    logits = torch.randn(2, 2, 500, generator=seeded())
    target = torch.rand(2, 2, 500, generator=seeded(1))
    exact = _dice_by_definition(logits.double(), target.double(), form)
    assert dice_loss(logits, target, form).item() == pytest.approx(exact.item(), rel=1e-5)


def _dice_by_definition(logits: Tensor, target: Tensor, form: DiceForm) -> Tensor:
    p = logits.sigmoid()
    power = 2 if form.squared else 1
    overlap = 2 * (p * target).sum(-1) + form.smooth
    return (1 - overlap / ((p**power).sum(-1) + (target**power).sum(-1) + form.smooth)).mean()


@pytest.mark.parametrize("loss", [bce_loss, dice_loss])
def test_elements_left_out_do_not_count(loss: Callable[..., Tensor]):
    logits = torch.randn(1, 2, 80, generator=seeded())
    target = (torch.rand(1, 2, 80, generator=seeded(1)) > 0.5).float()
    where = torch.zeros(1, 2, 80, dtype=torch.bool)
    where[..., :30] = True
    torch.testing.assert_close(loss(logits, target, where=where), loss(logits[..., :30], target[..., :30]))
    assert loss(logits, target, where=torch.zeros_like(where)) == 0


def test_mask_loss_takes_bool_targets():
    logits = torch.randn(1, 1, 50, generator=seeded())
    target = logits > 0
    torch.testing.assert_close(
        mask_loss(logits, target).bce, F.binary_cross_entropy_with_logits(logits, target.float())
    )
