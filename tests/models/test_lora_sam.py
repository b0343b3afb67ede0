"""The networks of LoRA-SAM: what they find, what they learn from, and the file they come back from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.lora_sam.anchor import with_position
from wsi_pipeline.models.lora_sam.box_heads import KNOWN_SHARE, Found, Truth, known_share
from wsi_pipeline.models.lora_sam.build import build_lora_sam
from wsi_pipeline.models.lora_sam.file import Facts, load_state, read_facts, state_of
from wsi_pipeline.models.lora_sam.hidden_states import AggregatingEncoder
from wsi_pipeline.models.lora_sam.lora import adapted_layers
from wsi_pipeline.models.lora_sam.mask_head import paste
from wsi_pipeline.models.lora_sam.pyramid import FeatureAggregator, strides
from wsi_pipeline.models.lora_sam.segmenter import LoraSamSegmenter
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.roles import InstanceSegmenter, PairImages
from wsi_pipeline.models.sam import build_sam

ROUTES = ["anchor-prompter", "instance", "domain-decoder"]
SMALL = {"rank": 2, "inner_width": 16, "width": 16, "finest": 2, "box_width": 16}


@pytest.fixture
def model_of(small_sam):
    """A small network of a route; the same every time."""

    def build(route="anchor-prompter", **changes):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_lora_sam(small_sam(), LoraSamSettings(route=route, **{**SMALL, **changes}))
            for layer in adapted_layers(model.image_encoder).values():
                torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
        return model

    return build


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)


def truth_of(*boxes, known=None):
    """Filled boxes of class 1."""
    masks = torch.zeros(len(boxes), 256, 256, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    known = torch.ones(256, 256, dtype=torch.bool) if known is None else known
    return Truth(torch.tensor(boxes).float(), torch.ones(len(boxes), dtype=torch.int64), masks, known)


@pytest.mark.parametrize("route", ROUTES)
def test_found_objects_come_in_windows_that_hold_their_boxes(route, model_of, patches):
    segmenter = LoraSamSegmenter(model_of(route), margin=0.5)
    assert isinstance(segmenter, InstanceSegmenter)
    found = segmenter.find(PairImages(patches), mpp=0.5, min_score=0.0, max_objects=7)
    assert len(found) == 2
    for groups in found:
        assert 0 < sum(map(len, groups)) <= 7
        for one in groups:
            side = one.masks.logits.shape[-1]
            assert one.masks.logits.shape == (len(one), side, side)
            assert (one.masks.origin >= 0).all()
            assert (one.masks.origin + side <= 256).all()
            assert (one.masks.origin <= np.floor(one.boxes[:, :2])).all()
            assert (one.masks.origin + side >= np.ceil(one.boxes[:, 2:])).all()
            assert ((one.scores > 0) & (one.scores <= 1)).all()
            assert not one.classes.any(), "objects that are not named have no class"


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_found_does_not_depend_on_the_other_patches(route, model_of, patches):
    segmenter = LoraSamSegmenter(model_of(route))
    together = segmenter.find(PairImages(patches), mpp=0.5, min_score=0.0, max_objects=5)
    (alone,) = segmenter.find(PairImages(patches[1:]), mpp=0.5, min_score=0.0, max_objects=5)
    for one, other in zip(together[1], alone, strict=True):
        np.testing.assert_array_equal(one.masks.logits, other.masks.logits)
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize("route", ROUTES[:2])
def test_a_window_shows_what_the_whole_patch_shows_there(route, model_of, patches):
    windowed, whole = (LoraSamSegmenter(model_of(route), margin=margin) for margin in (0.5, None))
    asked = {"mpp": 0.5, "min_score": 0.0, "max_objects": 6}
    by_box = {}
    for one in whole.find(PairImages(patches[:1]), **asked)[0]:
        by_box |= {tuple(box): logits for box, logits in zip(one.boxes, one.masks.logits, strict=True)}
    for one in windowed.find(PairImages(patches[:1]), **asked)[0]:
        side = one.masks.logits.shape[-1]
        for box, (x, y), logits in zip(one.boxes, one.masks.origin, one.masks.logits, strict=True):
            expected = by_box[tuple(box)][y : y + side, x : x + side]
            np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_classes_are_numbered_as_they_are_named(model_of, patches):
    segmenter = LoraSamSegmenter(model_of("instance", classes=("Tumour", "Stroma")))
    assert segmenter.class_names == ("Tumour", "Stroma")
    (groups,) = segmenter.find(PairImages(patches[:1]), mpp=0.5, min_score=0.0, max_objects=50)
    assert {int(label) for one in groups for label in one.classes} <= {1, 2}


def test_the_merged_adapter_is_at_work(model_of, patches):
    segmenters = [LoraSamSegmenter(model_of(rank=rank)) for rank in (0, 2)]
    plain, bent = (one.encoder.encode(patches[:1])[0].embedding for one in segmenters)
    assert not torch.equal(plain, bent)
    pixels = torch.from_numpy(patches[:1]).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(bent, model_of(rank=2).encode(pixels).embedding, rtol=1e-4, atol=1e-4)


def test_many_objects_are_decoded_in_chunks_alike(model_of, patches):
    model = model_of()
    pixels = torch.from_numpy(patches[:1]).permute(0, 3, 1, 2).float()
    seen = model.encode(pixels)
    answers = []
    for model.decode_batch in (64, 2):
        (groups,) = model.instances(seen, min_score=0.0, most=5, margin=0.5)
        answers.append(np.concatenate([one.masks.logits.ravel() for one in groups]))
    np.testing.assert_allclose(*answers, atol=1e-5)


@pytest.mark.parametrize("route", ROUTES[:2])
def test_losses_reach_the_adapter_and_every_part_that_is_at_work(route, model_of):
    model, truth = model_of(route).train(), truth_of((40, 40, 90, 80), (150, 100, 200, 160))
    with torch.enable_grad():
        seen = model.encode(torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 255)
        levels = model.neck(seen)
        losses, (shown,) = model.head.box_losses(levels, [truth])
        labels = truth.labels[shown.truth]
        logits = model.mask_logits(seen, levels, [shown.boxes], [labels])
        target = model.at_logits(truth.masks[shown.truth].float(), shown.boxes)
        assert logits.shape == target.shape
        mask = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        (sum(losses.values()) + mask).backward()
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    untouched = {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
    # parts of SAM's decoder for what is not asked, predicted IoU and three guesses, and biases that a softmax cancels
    of_guesses = ("mask_decoder.iou_prediction_head", "mask_decoder.output_hypernetworks_mlps")
    assert not {name for name in untouched if not name.startswith(of_guesses) and "k_proj.bias" not in name}
    assert {
        name for name, value in model.named_parameters() if name.startswith("image_encoder") and value.grad is not None
    }


def test_batch_norms_keep_their_averages(model_of):
    model = model_of().train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)


def test_boxes_over_unknown_px_are_no_background(model_of):
    """Anchors and proposals are looked at only where nearly all of them is known."""
    known = torch.zeros(256, 256, dtype=torch.bool)
    known[:, :100] = True
    share = known_share(torch.tensor([[0.0, 0, 50, 50], [75, 0, 125, 50], [150, 0, 250, 9], [-50, 10, 50, 20]]), known)
    assert share.tolist() == [1.0, 0.5, 0.0, 1.0]
    model, truth = model_of().train(), truth_of((20, 20, 60, 60), known=known)
    anchors = torch.tensor([[20.0, 20, 60, 60], [70, 150, 90, 170], [160, 20, 200, 60]])
    targets = [{"boxes": truth.boxes, "labels": truth.labels, "known": known}]
    (labels,), _ = model.head.rpn.assign_targets_to_anchors([anchors], targets)
    assert labels.tolist() == [1, 0, -1]
    seen = model.encode(torch.zeros(1, 3, 256, 256))
    heads, judged = model.head.roi_head, []
    heads.box_roi_pool.register_forward_hook(lambda module, given, out: judged.append(given[1][0]))
    model.head.box_losses(model.neck(seen), [truth])
    assert len(judged[0])
    assert (known_share(judged[0], known) >= KNOWN_SHARE).all()


def test_masks_are_pasted_where_their_boxes_are():
    masks = torch.full((1, 4, 4), 3.0)
    masks[:, :, 2:] = -3
    drawn = paste(masks, torch.tensor([[10.0, 20, 18, 24]]), torch.tensor([[8, 16]]), 16, -32.0)[0]
    inside = drawn != -32
    rows, columns = torch.where(inside)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 2, 9)
    assert (drawn[4:8, 2:6] > 0).all()
    assert (drawn[4:8, 6:10] < 0).all()


def test_levels_get_the_place_of_their_cells():
    levels = with_position([torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 4, 4)])
    rows, columns = levels[0][0].split(4)
    assert torch.equal(rows, columns.transpose(1, 2))
    assert rows[0, 3, 0] == pytest.approx(math.sin(math.pi), abs=1e-5)
    np.testing.assert_allclose(levels[1][0, :4, :, 0], rows[:, :, 0].view(4, 4, 2).mean(-1), atol=1e-6)


def test_strides_follow_the_embedding():
    assert strides(16, 0) == [4, 8, 16, 32, 64]
    assert strides(4, 1) == [2, 4, 8, 16]


def test_hidden_states_are_aggregated_on_the_way():
    """What enters the first block, then every block's output; the embedding is the encoder's own."""
    with torch.device("meta"):
        encoder = build_sam("vit_b").image_encoder
    handed = []

    class Aggregator(FeatureAggregator):
        def forward(self, hidden):
            handed.extend(hidden)
            return hidden[0].new_zeros(1, 256, 64, 64)

    with torch.device("meta"):
        seen = AggregatingEncoder(encoder, Aggregator(768, 12))(torch.zeros(1, 3, 1024, 1024))
    assert len(handed) == 13
    assert {tuple(one.shape) for one in handed} == {(1, 64, 64, 768)}
    assert seen.embedding.shape == (1, 256, 64, 64)
    assert seen.early.shape == (1, 64, 64, 256)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in encoder.blocks)


def test_hidden_states_need_a_plain_vit():
    with pytest.raises(WorkflowError, match=r"features: lite_medsam has no hidden states of one size.*embedding"):
        build_lora_sam(build_sam("lite_medsam"), LoraSamSettings(features="hidden-states"))


def write(model, path, backbone="lite-medsam"):
    save_file(dict(state_of(model)), path, Facts(backbone, model.settings).metadata())
    return path


@pytest.mark.parametrize("route", ROUTES)
def test_one_file_holds_adapter_heads_and_settings(route, model_of, small_sam, patches, tmp_path):
    from wsi_pipeline.models.checkpoints import read_state_dict

    model = model_of(route, classes=("Nucleus",))
    path = write(model, tmp_path / "lora-sam.safetensors")
    facts = read_facts(path)
    assert facts == Facts("lite-medsam", model.settings)
    other = build_lora_sam(small_sam(), facts.settings)
    load_state(other, read_state_dict(path), where=path)
    asked = {"mpp": 0.5, "min_score": 0.0, "max_objects": 5}
    mine, theirs = (LoraSamSegmenter(one).find(PairImages(patches[:1]), **asked)[0] for one in (model, other))
    for one, same in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one.masks.logits, same.masks.logits)


def test_files_of_other_networks_are_refused(model_of, small_sam, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"x.safetensors: is no trained LoRA-SAM. Give the lora-sam.safetensors"):
        read_facts(path)
    state = dict(state_of(model_of()))
    other = build_lora_sam(small_sam(), LoraSamSettings(route="instance", **SMALL))
    with pytest.raises(WeightsError, match=r"mine: does not fit the network: 120 unexpected \(mask_decoder"):
        load_state(other, state, where="mine")


def test_nothing_found_is_no_group(model_of, patches):
    model = model_of()
    seen = model.encode(torch.zeros(1, 3, 256, 256))
    assert model.instances(seen, min_score=0.9999, most=5, margin=0.5) == [[]]
    empty = Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert list(model.windows(empty.boxes, 0.5)) == []
