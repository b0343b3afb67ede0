"""SAPNet chooses masks by class evidence, and its instance branch finds objects without clicks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.sapnet import network as network_module
from wsi_pipeline.models.sapnet import solo_results
from wsi_pipeline.models.sapnet.backbone import EmbeddedPyramid, ImagePyramid, ResNetFpn, TimmFpn
from wsi_pipeline.models.sapnet.box_mining import box_mining
from wsi_pipeline.models.sapnet.boxes import area_of
from wsi_pipeline.models.sapnet.generator import negatives, positives
from wsi_pipeline.models.sapnet.guidance import point_distance_guidance
from wsi_pipeline.models.sapnet.matrix_nms import matrix_nms
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.official import load_published, renamed
from wsi_pipeline.models.sapnet.refinement import likelihoods
from wsi_pipeline.models.sapnet.selection import Choice, Clicks, select_proposals
from wsi_pipeline.models.sapnet.settings import SapNetSettings, SelectorSettings, SoloSettings
from wsi_pipeline.models.sapnet.solo_head import SoloMaps
from wsi_pipeline.models.sapnet.solo_results import Solos, draw, find
from wsi_pipeline.training.sapnet_loss import sapnet_losses, solo_losses
from wsi_pipeline.training.solo_targets import shrink, solo_targets

SIDE = 64
SIZE = (SIDE, SIDE)
SMALL = SapNetSettings(
    classes=("a", "b"),
    width=32,
    selector=SelectorSettings(hidden=16, negatives=20, part_limit=100.0),
    solo=SoloSettings(
        channels=32,
        stacked=1,
        kernel=32,
        mask_channels=32,
        grids=(8, 7, 5, 3, 2),
        smallest=(1, 1, 1, 1, 1),
    ),
)


class Tiny(nn.Module):
    """Five maps of an image's own colours."""

    strides = (4.0, 8.0, 16.0, 32.0, 64.0)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = [self.first(pixels)]
        for _ in self.strides[1:]:
            maps.append(nn.functional.avg_pool2d(maps[-1], 2))
        return maps


def network(settings: SapNetSettings = SMALL) -> SapNet:
    torch.manual_seed(0)
    return SapNet(Tiny(), settings)


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows)


def squares(centres: Tensor, halves: tuple[float, ...]) -> Tensor:
    """(n, M, 4) around each centre."""
    half = torch.tensor(halves)[:, None]
    return torch.cat([centres[:, None] - half, centres[:, None] + half], dim=-1)


def painted(rows: Tensor) -> Tensor:
    """Masks (..., SIDE, SIDE) that fill boxes (..., 4)."""
    px = torch.arange(SIDE) + 0.5
    x0, y0, x1, y1 = rows[..., None].unbind(dim=-2)
    return ((px > y0) & (px < y1))[..., None] & ((px > x0) & (px < x1))[..., None, :]


def three_clicks() -> Clicks:
    """Two near one another and of one class, one far off on the second image."""
    points = torch.tensor([[20.0, 20.0], [34.0, 20.0], [40.0, 40.0]])
    proposals = squares(points, (4, 8, 12, 6, 10, 19)).clamp(0, SIDE)
    return Clicks(points, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), proposals)


def chosen_by(logits: Tensor, clicks: Clicks, **settings: object) -> Choice:
    """The first choice with class logits alone, all proposals alike otherwise."""
    guidance = point_distance_guidance(clicks.points, clicks.labels, clicks.image_index, clicks.proposals)
    return select_proposals(logits, torch.zeros_like(logits), clicks, guidance, SelectorSettings(**settings))


def test_proposals_that_hold_another_click_of_the_class_count_less() -> None:
    clicks = three_clicks()
    found = point_distance_guidance(clicks.points, clicks.labels, clicks.image_index, clicks.proposals)
    holds = torch.tensor([False, False, False, False, False, True])
    assert ((found[:2] < 1) == holds).all()
    assert (found > 0.5).all()
    assert (found[2] == 1).all()


@pytest.mark.parametrize("other", [{"labels": torch.tensor([0, 1, 1])}, {"image_index": torch.tensor([0, 1, 1])}])
def test_clicks_of_another_class_or_image_are_no_group(other: dict[str, Tensor]) -> None:
    clicks = replace(three_clicks(), **other)
    found = point_distance_guidance(clicks.points, clicks.labels, clicks.image_index, clicks.proposals)
    assert (found[0] == 1).all()


def test_a_farther_click_in_the_box_counts_more_against_it() -> None:
    points = torch.tensor([[20.0, 20.0], [24.0, 20.0], [60.0, 60.0], [90.0, 60.0]])
    everything = boxes((0, 0, 50, 50), (0, 0, 50, 50), (55, 0, 99, 99), (55, 0, 99, 99))[:, None]
    near, _, far, _ = point_distance_guidance(points, torch.zeros(4), torch.zeros(4), everything)[:, 0]
    assert far < near < 1


def test_guidance_lowers_logits_or_scores_or_nothing() -> None:
    clicks, logits = three_clicks(), torch.ones(3, 6, 3)
    plain, of_logits, of_scores = (chosen_by(logits, clicks, guidance=way) for way in ("none", "logits", "score"))
    assert (plain.cls_logits == 1).all()
    assert (of_logits.cls_logits[0, 5] < 1).all()
    torch.testing.assert_close(of_logits.scores, plain.scores)
    assert of_scores.scores[0, 5] < plain.scores[0, 5]
    assert (of_scores.cls_logits == 1).all()


BOXES = st.tuples(st.floats(0, 40), st.floats(0, 40), st.floats(1, 20), st.floats(1, 20)).map(
    lambda found: (found[0], found[1], found[0] + found[2], found[1] + found[3])
)


@given(st.lists(st.tuples(BOXES, BOXES, BOXES, BOXES), min_size=1, max_size=4))
def test_mined_boxes_stay_among_what_they_are_mined_from(rows: list[tuple]) -> None:
    every = torch.tensor(rows)
    mined = box_mining(every[:, 0], every[:, 1:])
    assert (mined[:, :2] >= every[..., :2].amin(dim=1) - 1e-3).all()
    assert (mined[:, 2:] <= every[..., 2:].amax(dim=1) + 1e-3).all()
    smaller = (area_of(every[:, 1:]) <= area_of(every[:, :1])).all(dim=1)
    torch.testing.assert_close(mined[smaller], every[smaller, 0])


def test_a_box_grows_towards_a_larger_proposal_that_holds_it() -> None:
    part, whole = boxes((10, 10, 20, 20)), boxes((9, 9, 24, 24))[:, None]
    mined = box_mining(part, whole)
    assert area_of(part) < area_of(mined) < area_of(whole[:, 0])


def test_small_boxes_may_stick_out_less_with_a_share() -> None:
    part, shifted = boxes((10.0, 10, 16, 16)), boxes((11.5, 9, 18, 16.5))[:, None]
    assert not torch.equal(box_mining(part, shifted), part)
    torch.testing.assert_close(box_mining(part, shifted, slack_share=0.1), part)


def test_made_boxes_surround_the_mined_one() -> None:
    clicks, logits = three_clicks(), torch.zeros(3, 6, 3)
    logits[:, 0, :2] = 1.0
    logits[:, 1:, 2] = 5.0
    choice = replace(chosen_by(logits, clicks, mining=False), box=squares(clicks.points, (14,))[:, 0])
    guidance = torch.ones(3, 6)
    made = positives(choice, guidance)[:, 6:]
    ours, published = made, positives(choice, guidance, published=True)[:, 6:]
    torch.testing.assert_close((ours[..., :2] + ours[..., 2:])[2] / 2, clicks.points[2].expand(20, 2))
    assert (area_of(ours[2]) > 28**2).all()
    assert (area_of(published[2]) > 38**2).all()


def test_boxes_around_a_group_shrink() -> None:
    clicks = three_clicks()
    choice = chosen_by(torch.zeros(3, 6, 3), clicks, mining=False)
    sizes = area_of(positives(choice, torch.full((3, 6), 0.5))[:, 21:])
    assert (sizes[:, 1:] < area_of(choice.box)[:, None]).any()
    assert (area_of(positives(choice, torch.ones(3, 6))[2, 21:]) > area_of(choice.box)[2]).all()


def test_negatives_are_drawn_with_the_generator_and_stay_off_proposals() -> None:
    clicks = three_clicks()
    choice = chosen_by(torch.zeros(3, 6, 3), clicks)
    sizes, settings = torch.tensor([SIZE, SIZE]), SelectorSettings(negatives=200, part_limit=None)
    first, again, other = (
        negatives(choice, clicks, sizes, settings, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first.boxes, again.boxes)
    assert not torch.equal(first.boxes, other.boxes)
    assert len(first.boxes) == 400
    same = negatives(replace(choice, box=choice.box + 1), clicks, sizes, settings, generator=torch.Generator())
    assert 0 < same.valid.sum() < 400


def test_random_boxes_are_about_as_large_as_proposals_or_of_any_size() -> None:
    clicks = three_clicks()
    choice, sizes = chosen_by(torch.zeros(3, 6, 3), clicks), torch.tensor([SIZE, SIZE])
    side = area_of(clicks.proposals).sqrt()
    sides = {}
    for way in ("proposals", "image"):
        settings = SelectorSettings(negatives=200, part_limit=None, negative_sizes=way)
        made = negatives(choice, clicks, sizes, settings, generator=torch.Generator().manual_seed(0))
        assert (made.boxes[:, 2:] <= SIDE).all() or way == "image"
        sides[way] = area_of(made.boxes).clamp(min=0).sqrt()
    assert (sides["proposals"] <= 2 * side.max() + 1e-3).all()
    assert sides["image"].max() > 2 * side.max()
    assert sides["proposals"].std() < sides["image"].std()


def test_no_box_is_drawn_like_proposals_that_show_nothing() -> None:
    clicks = replace(three_clicks(), proposals=torch.zeros(3, 6, 4))
    choice = chosen_by(torch.zeros(3, 6, 3), clicks, mining=False)
    settings = SelectorSettings(negatives=20, part_limit=None)
    assert not len(negatives(choice, clicks, torch.tensor([SIZE, SIZE]), settings, generator=torch.Generator()).boxes)


def test_what_the_segmenter_says_and_other_clicks_count_in_the_last_choice() -> None:
    clicks, evidence = three_clicks(), torch.full((3, 6), 0.5)
    guidance, settings = torch.ones(3, 6), SelectorSettings()
    quality = torch.full((3, 6), 0.5)
    quality[:, 2] = 0.6
    said = replace(clicks, quality=quality)
    assert likelihoods(evidence, said, guidance, settings).argmax(dim=1).tolist() == [2, 2, 2]
    guidance[0, 2] = 0.5
    assert likelihoods(evidence, said, guidance, settings).argmax(dim=1).tolist() == [0, 2, 2]
    alone = SelectorSettings(guidance="none")
    assert likelihoods(evidence, said, guidance, alone).argmax(dim=1).tolist() == [2, 2, 2]
    evidence[1, 2] = 0.1
    assert likelihoods(evidence, said, guidance, settings).argmax(dim=1).tolist() == [0, 0, 2]


def test_the_inner_half_of_a_large_box_is_a_negative() -> None:
    clicks = three_clicks()
    choice = replace(
        chosen_by(torch.zeros(3, 6, 3), clicks), box=squares(clicks.points, (4, 8, 12))[range(3), range(3)]
    )
    sizes, settings = torch.tensor([SIZE, SIZE]), SelectorSettings(negatives=0, part_limit=200.0)
    found = negatives(choice, clicks, sizes, settings)
    torch.testing.assert_close(found.boxes, squares(clicks.points, (4, 6))[[1, 2], [0, 1]])
    assert found.image_index.tolist() == [0, 1]
    assert found.valid.all()


def test_proposals_that_show_nothing_are_never_chosen() -> None:
    clicks = three_clicks()
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[:, :3] = False
    clicks = replace(clicks, valid=valid, proposals=clicks.proposals.masked_fill(~valid[..., None], 0))
    chosen = network().eval().select(network().levels(torch.rand(2, 3, *SIZE)), clicks, SIZE)
    assert (chosen.mask >= 3).all()
    assert (chosen.ranks[:, :3] >= 3).all()


def test_a_click_is_judged_by_its_own_patch_and_proposals_alone() -> None:
    net, clicks, pixels = network().eval(), three_clicks(), torch.rand(2, 3, *SIZE)
    together = net.select(net.levels(pixels), clicks, SIZE)
    last = Clicks(*(getattr(clicks, name)[2:] for name in ("points", "labels", "image_index", "proposals")))
    alone = net.select(net.levels(pixels[1:]), replace(last, image_index=torch.tensor([0])), SIZE)
    torch.testing.assert_close(alone.score, together.score[2:])
    torch.testing.assert_close(alone.box, together.box[2:])
    assert ((together.score >= 0) & (together.score <= 1)).all()


def test_before_training_all_proposals_are_worth_about_the_same() -> None:
    chosen = network().eval().select(network().levels(torch.rand(2, 3, *SIZE)), three_clicks(), SIZE)
    assert chosen.first.scores.std() < 0.01 * chosen.first.scores.mean()


def test_without_refinement_the_first_choice_is_the_last() -> None:
    selector = SMALL.selector.model_copy(update={"refine": False, "evidence": None})
    net = network(SMALL.model_copy(update={"selector": selector, "instances": False}))
    chosen = net.select(net.levels(torch.rand(2, 3, *SIZE)), three_clicks(), SIZE, generator=torch.Generator())
    assert chosen.second is None
    assert chosen.negatives is None
    torch.testing.assert_close(chosen.box, chosen.first.box)
    assert net.head is None


def test_every_part_learns() -> None:
    net, clicks = network().train(), three_clicks()
    with torch.enable_grad():
        losses = sapnet_losses(
            net,
            net.levels(torch.rand(2, 3, *SIZE)),
            clicks,
            painted(clicks.proposals),
            SIZE,
            generator=torch.Generator().manual_seed(0),
        )
        torch.stack(list(losses.values())).sum().backward()
    assert set(losses) == {"loss_psm", "loss_prm_positive", "loss_prm_negative", "loss_mask", "loss_category"}
    still = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()]
    # a softmax of one class too many does not feel what is added to all of its logits
    assert all(name.endswith(".bias") for name in still), still


def test_losses_are_finite_where_proposals_show_nothing_and_nothing_is_large_enough() -> None:
    net, clicks = network().train(), three_clicks()
    valid = torch.zeros(3, 6, dtype=torch.bool)
    valid[:, 3] = True
    clicks = replace(clicks, valid=valid, proposals=clicks.proposals.masked_fill(~valid[..., None], 0))
    losses = sapnet_losses(
        net,
        net.levels(torch.rand(2, 3, *SIZE)),
        clicks,
        torch.zeros(3, 6, *SIZE).bool(),
        SIZE,
        generator=torch.Generator(),
    )
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"] == 0


def test_the_instance_branch_learns_to_find_two_squares() -> None:
    truth = boxes((8, 8, 24, 24), (36, 34, 56, 54))
    masks, labels = painted(truth), torch.tensor([0, 1])
    pixels = torch.zeros(1, 3, *SIZE)
    pixels[0, 0], pixels[0, 1] = masks[0].float(), masks[1].float()
    net = network().train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with torch.enable_grad():
        for _ in range(80):
            losses = solo_losses(
                net, net.levels(pixels), torch.zeros(2, dtype=torch.int64), labels, truth, masks[:, None]
            )
            optimiser.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
    (found,) = net.eval().predict(net.levels(pixels), SIZE, min_score=0.3)
    assert sorted(found.labels[:2].tolist()) == [0, 1]
    drawn = draw(found, SIZE, torch.zeros(len(found), 2, dtype=torch.int64), SIDE)[:2] > 0
    wanted = masks[found.labels[:2]]
    assert ((drawn & wanted).sum(dim=(1, 2)) / (drawn | wanted).sum(dim=(1, 2)) > 0.7).all()


def test_a_cell_that_two_objects_claim_answers_for_the_last() -> None:
    rows = boxes((8, 8, 24, 24), (9, 9, 23, 23))
    targets = solo_targets(
        painted(rows),
        rows,
        torch.tensor([0, 1]),
        torch.tensor([0, 0]),
        images=1,
        classes=2,
        grids=(4,),
        scale_ranges=((1.0, 64.0),),
    )
    assert targets.object.unique().tolist() == [1]
    assert targets.labels[0, targets.cell].unique().tolist() == [1]


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_masks_are_shrunk_as_by_bilinear_interpolation(stride: int) -> None:
    masks = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    size = (32 // stride, 32 // stride)
    expected = nn.functional.interpolate(masks.float(), size, mode="bilinear", align_corners=False) >= 0.5
    assert torch.equal(shrink(masks, stride), expected)


def blobs() -> Solos:
    """Two drawn objects of one patch, the second at its edge."""
    torch.manual_seed(1)
    feature = torch.full((2, 16, 16), -3.0)
    feature[0, 3:7, 2:8] = torch.rand(4, 6) * 4 + 0.1
    feature[1, 10:16, 12:16] = 2.0
    kernels = [torch.zeros(1, 2, grid, grid) for grid in SMALL.solo.grids]
    categories = [torch.full((1, 2, grid, grid), -9.0) for grid in SMALL.solo.grids]
    for number, (row, column) in enumerate(((2, 2), (6, 7))):
        kernels[0][0, number, row, column] = 1.0
        categories[0][0, number, row, column] = 3.0 - number
    (found,) = find(SoloMaps(kernels, categories, feature[None]), SIZE, SMALL.solo, cell_score=0.1, max_objects=10)
    return found


def test_windows_show_what_the_whole_patch_shows() -> None:
    found = blobs()
    whole = draw(found, SIZE, torch.zeros(2, 2, dtype=torch.int64), SIDE)
    start = torch.tensor([[5, 9], [40, 40]])
    for one, (x, y), window in zip(whole, start.tolist(), draw(found, SIZE, start, 24), strict=True):
        torch.testing.assert_close(window, one[y : y + 24, x : x + 24], rtol=1e-4, atol=1e-4)


def test_boxes_hold_their_masks() -> None:
    found = blobs()
    assert found.labels.tolist() == [0, 1]
    masks = draw(found, SIZE, torch.zeros(2, 2, dtype=torch.int64), SIDE) > 0
    px = torch.arange(SIDE)
    for mask, (x0, y0, x1, y1) in zip(masks, found.boxes.tolist(), strict=True):
        assert mask.any()
        assert px[mask.any(dim=0)].min() >= x0
        assert px[mask.any(dim=0)].max() < x1
        assert px[mask.any(dim=1)].min() >= y0
        assert px[mask.any(dim=1)].max() < y1


def test_masks_are_drawn_a_few_at_a_time_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, most, plain = 10 * 16**2, 0, solo_results._masks

    def watched(kernels: Tensor, feature: Tensor) -> Tensor:
        nonlocal most
        most = max(most, len(kernels) * feature[0].numel())
        return plain(kernels, feature)

    monkeypatch.setattr(solo_results, "_PX_AT_ONCE", limit)
    monkeypatch.setattr(solo_results, "_masks", watched)
    kernels = [torch.ones(1, 2, grid, grid) for grid in SMALL.solo.grids]
    categories = [torch.ones(1, 2, grid, grid) for grid in SMALL.solo.grids]
    (found,) = find(
        SoloMaps(kernels, categories, torch.ones(1, 2, 16, 16)),
        SIZE,
        SMALL.solo.model_copy(update={"min_score": 0.0}),
        cell_score=0.1,
        max_objects=1000,
    )
    assert len(found) == 2 * sum(grid**2 for grid in SMALL.solo.grids)
    assert draw(found, SIZE, torch.zeros(len(found), 2, dtype=torch.int64), 16).shape == (len(found), 16, 16)
    assert most == limit


def test_nothing_is_found_where_no_cell_is_sure() -> None:
    net = network().eval()
    (found,) = net.predict(net.levels(torch.rand(1, 3, *SIZE)), SIZE, min_score=0.5)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert draw(found, SIZE, torch.zeros(0, 2, dtype=torch.int64), 16).shape == (0, 16, 16)


def test_objects_need_the_score_that_is_asked_for_once_better_ones_have_lowered_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every, net = blobs(), network().eval()
    monkeypatch.setattr(network_module, "find", lambda *args, **options: [every])
    (sure,) = net.predict(net.levels(torch.rand(1, 3, *SIZE)), SIZE, min_score=float(every.scores.mean()))
    assert (len(every), len(sure)) == (2, 1)
    torch.testing.assert_close(sure.boxes, every.boxes[:1])
    assert draw(sure, SIZE, torch.zeros(1, 2, dtype=torch.int64), 16).shape == (1, 16, 16)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_copies_of_a_mask_lose_their_score_within_its_class(kernel: str) -> None:
    masks = painted(boxes((8, 8, 24, 24)).expand(4, 4))
    scores, kept = matrix_nms(masks, torch.tensor([0, 0, 0, 1]), torch.tensor([0.9, 0.8, 0.7, 0.6]), kernel=kernel)
    assert kept[:2].tolist() == [0, 3]
    torch.testing.assert_close(scores[:2], torch.tensor([0.9, 0.6]))
    assert scores.isfinite().all()
    assert (scores[2:] < 0.15).all()


@pytest.mark.parametrize(("finest", "cell"), [(0, 4), (1, 2)])
def test_levels_of_an_embedding_halve_from_the_finest_on(finest: int, cell: int) -> None:
    pyramid = EmbeddedPyramid(32, 24, 4.0, finest).eval()
    levels = pyramid(EncoderOutput(torch.rand(1, 256, 64, 64), torch.rand(1, 64, 64, 24)))
    assert pyramid.strides == tuple(cell * 2.0**level for level in range(5))
    assert [level.shape[-1] for level in levels] == [256 // stride for stride in pyramid.strides]


def looks_at_images(backbone: ImagePyramid) -> None:
    levels = backbone.eval()(torch.rand(1, 3, 128, 128) * 255)
    assert [tuple(level.shape) for level in levels] == [(1, 32, 128 // s, 128 // s) for s in (4, 8, 16, 32, 64)]


def test_resnet_keeps_its_first_stage_and_all_statistics() -> None:
    backbone = ResNetFpn(32)
    looks_at_images(backbone)
    assert not any(name.startswith("body.bn1") for name, _ in backbone.named_parameters())
    fixed = {name.split(".")[1] for name, value in backbone.named_parameters() if not value.requires_grad}
    assert fixed == {"conv1", "layer1"}


def test_backbones_of_timm_are_filled_from_a_local_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    whole = timm.create_model("resnet10t", num_classes=7)
    path = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in whole.state_dict().items()}, path)
    backbone = TimmFpn("resnet10t", 32)
    backbone.load_body(path)
    torch.testing.assert_close(backbone.body.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    looks_at_images(backbone)
    norms = [module for module in backbone.train().modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    with pytest.raises(WeightsError, match="missing"):
        TimmFpn("resnet18", 32).load_body(path)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "no_such_network"])
def test_backbones_without_a_pyramid_are_named(name: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(WorkflowError, match=f"{name} with maps of strides"):
        TimmFpn(name, 32)


def published_keys() -> set[str]:
    """Names of the published network's parameters beyond the backbone, from its description."""
    normed = [f"neck.lateral_convs.{i}" for i in range(4)] + [f"neck.fpn_convs.{i}" for i in range(5)]
    normed += [f"mask_head.{branch}_convs.{i}" for branch in ("cls", "kernel") for i in range(4)]
    feature = "mask_head.mask_feature_head"
    normed += [f"{feature}.convs_all_levels.{level}.conv{i}" for level in range(4) for i in range(max(level, 1))]
    normed.append(f"{feature}.conv_pred")
    linear = [f"roi_head.bbox_head.{part}.{i}" for part in ("shared_fcs", "fc_cls", "fc_ins") for i in range(2)]
    linear += ["mask_head.conv_cls", "mask_head.conv_kernel"]
    keys = {f"{name}.{rest}" for name in normed for rest in ("conv.weight", "gn.weight", "gn.bias")}
    return keys | {f"{name}.{rest}" for name in linear for rest in ("weight", "bias")}


def test_published_names_are_ours_renamed() -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        own = SapNet(ResNetFpn(), SapNetSettings.published(("a", "b"))).state_dict()
        body = {f"backbone.{key}" for key in resnet50().state_dict() if not key.startswith("fc.")}
    nothing = torch.zeros(0)
    assert set(renamed(dict.fromkeys(published_keys() | body, nothing))) == set(own)


def test_a_file_of_something_else_is_no_published_network(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="is no checkpoint of SAPNet"):
        load_published(path, ("a",))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SapNetSettings(classes=("a", "a")),
        lambda: SapNetSettings(classes=()),
        lambda: SoloSettings(kernel=40),
        lambda: SelectorSettings(guidance="both"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValidationError):
        wrong()


def test_settings_survive_a_file() -> None:
    settings = SapNetSettings.published(("a",))
    assert SapNetSettings.model_validate_json(settings.model_dump_json()) == settings
