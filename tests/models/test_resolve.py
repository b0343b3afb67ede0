"""Which files a model section means, and what it is told when they are not the ones it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from wsi_pipeline.errors import WeightsError, WorkflowError, WsiPipelineError
from wsi_pipeline.models import resolve, weights
from wsi_pipeline.models.convert import import_checkpoint
from wsi_pipeline.models.resolve import BACKBONES, WeightPlan, hq_sam_plan, pa_sam_plan, sam_plan, wsi_sam_plan
from wsi_pipeline.workflow import RefineSettings, SegmentSettings

State = dict[str, torch.Tensor]
PLANS: dict[str, Callable[..., WeightPlan]] = {
    "sam": sam_plan,
    "hq-sam": hq_sam_plan,
    "pa-sam": pa_sam_plan,
    "wsi-sam": wsi_sam_plan,
}
KINDS = {"hq-sam": ["hq-decoder"], "pa-sam": ["pa-decoder"], "wsi-sam": ["wsi-heads"]}
WIDTHS = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280, "vit_t": 160}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSI_PIPELINE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def all_backbones_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones count as fetched; the file of one is called as its entry."""
    names = {backbone.weights for backbone in BACKBONES.values()}
    locate = resolve.locate
    monkeypatch.setattr(resolve, "locate", lambda name: Path(name) if name in names else locate(name))


def _with_prefix(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def _encoder(variant: str) -> State:
    if variant == "vit_t":
        return {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(32, 3, 3, 3)}
    return {"image_encoder.patch_embed.proj.weight": torch.zeros(WIDTHS[variant], 3, 1, 1)}


def _decoder(kind: str, variant: str = "vit_t") -> State:
    state = {"transformer.norm.bias": torch.zeros(1)}
    if kind == "hq":
        early = torch.zeros(WIDTHS[variant], 1, 2, 2)
        state |= {"hf_token.weight": torch.zeros(1), "compress_vit_feat.0.weight": early}
    if kind == "pa":
        state["prompt_adapter.static_refined_token.weight"] = torch.zeros(1)
    return state


def _whole(kind: str, variant: str) -> State:
    return _encoder(variant) | _with_prefix("mask_decoder.", _decoder(kind, variant))


def _both_heads() -> State:
    return _with_prefix("high.", _decoder("hq")) | _with_prefix("low.", _decoder("hq"))


def _saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def _roles(plan: WeightPlan) -> dict[str, str]:
    return {role: path.name for role, path in plan.files.items()}


@pytest.mark.parametrize("model", PLANS)
def test_without_weights_every_model_stands_on_the_embedded_backbone(model: str) -> None:
    plan = PLANS[model](SegmentSettings(model=model))
    assert plan.backbone.name == "lite-medsam"
    shipped = dict.fromkeys(KINDS.get(model, ()), f"{model}-litemedsam.safetensors")
    assert _roles(plan) == {"sam": "lite_medsam.pth", **shipped}
    if shipped:
        assert PLANS[model](SegmentSettings(model=model, weights=f"{model}-litemedsam")) == plan


@pytest.mark.parametrize("model", PLANS)
def test_weights_of_the_backbone_stand_for_an_untrained_head(model: str) -> None:
    plan = PLANS[model](SegmentSettings(model=model, weights="lite-medsam"))
    assert _roles(plan) == {"sam": "lite_medsam.pth"}


@pytest.mark.usefixtures("all_backbones_here")
@pytest.mark.parametrize("model", PLANS)
def test_named_backbone_and_its_plain_sam_file_mean_the_same(model: str, tmp_path: Path) -> None:
    plan = PLANS[model](SegmentSettings(model=model, backbone="vit-l"))
    assert (plan.backbone.name, _roles(plan)) == ("vit-l", {"sam": "sam-vit-l"})
    file = _saved(tmp_path / "any.pth", _whole("sam", "vit_l"))
    plan = PLANS[model](SegmentSettings(model=model, weights=file))
    assert (plan.backbone.name, _roles(plan)) == ("vit-l", {"sam": "any.pth"})


@pytest.mark.parametrize(("model", "kind"), [("hq-sam", "hq"), ("pa-sam", "pa")])
@pytest.mark.parametrize(("variant", "backbone"), [("vit_t", "mobile-sam"), ("vit_b", "vit-b"), ("vit_l", "vit-l")])
def test_whole_file_brings_its_backbone(model: str, kind: str, variant: str, backbone: str, tmp_path: Path) -> None:
    file = _saved(tmp_path / "whole.pth", {"model": _whole(kind, variant), "epoch": 12})
    for named in (None, backbone):
        plan = PLANS[model](SegmentSettings(model=model, weights=file, backbone=named))
        assert (plan.backbone.name, _roles(plan)) == (backbone, {model: "whole.pth"})


@pytest.mark.usefixtures("all_backbones_here")
@pytest.mark.parametrize(
    ("variant", "named", "backbone"),
    [
        ("vit_b", None, "vit-b"),
        ("vit_l", None, "vit-l"),
        ("vit_h", "vit-h", "vit-h"),
        ("vit_t", None, "mobile-sam"),
        ("vit_t", "lite-medsam", "lite-medsam"),
    ],
)
def test_hq_decoder_goes_where_its_early_feature_comes_from(
    variant: str, named: str | None, backbone: str, tmp_path: Path
) -> None:
    file = _saved(tmp_path / "epoch_11.pth", _decoder("hq", variant))
    plan = hq_sam_plan(SegmentSettings(model="hq-sam", weights=file, backbone=named))
    assert plan.backbone.name == backbone
    assert _roles(plan) == {"sam": BACKBONES[backbone].weights, "hq-decoder": "epoch_11.pth"}


@pytest.mark.usefixtures("all_backbones_here")
@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_pa_decoder_goes_on_the_backbone_that_is_named(backbone: str, tmp_path: Path) -> None:
    file = _saved(tmp_path / "epoch_20.pth", _decoder("pa"))
    plan = pa_sam_plan(SegmentSettings(model="pa-sam", weights=file, backbone=backbone))
    assert _roles(plan) == {"sam": BACKBONES[backbone].weights, "pa-decoder": "epoch_20.pth"}


@pytest.mark.usefixtures("all_backbones_here")
def test_published_pa_decoder_goes_on_vit_l_by_its_name(tmp_path: Path) -> None:
    import_checkpoint(Path(_saved(tmp_path / "epoch_20.pth", _decoder("pa"))), name="pa-sam-vit-l")
    plan = pa_sam_plan(SegmentSettings(model="pa-sam", weights="pa-sam-vit-l"))
    assert plan.backbone.name == "vit-l"
    assert _roles(plan) == {"sam": "sam-vit-l", "pa-decoder": "pa-sam-vit-l.safetensors"}
    with pytest.raises(WeightsError, match="holds PA-SAM mask decoder for vit_l, but vit_b was expected"):
        pa_sam_plan(SegmentSettings(model="pa-sam", weights="pa-sam-vit-l", backbone="vit-b"))


def test_decoder_needs_its_backbone_on_this_machine(tmp_path: Path) -> None:
    file = _saved(tmp_path / "epoch_11.pth", _decoder("hq", "vit_h"))
    with pytest.raises(WeightsError, match=r"sam-vit-h: is not on this machine yet.*models fetch sam-vit-h"):
        hq_sam_plan(SegmentSettings(model="hq-sam", weights=file))


def _write_cut(path: Path) -> None:
    _saved(path, _whole("hq", "vit_b"))
    path.write_bytes(path.read_bytes()[:-400])


def _write(content: Any) -> Callable[[Path], object]:
    return lambda path: _saved(path, content)


WRONG: dict[str, tuple[str, Callable[[Path], object], dict[str, str], str]] = {
    "HQ-SAM for SAM": (
        "sam",
        _write(_whole("hq", "vit_b")),
        {},
        "holds HQ-SAM for vit_b, but one of SAM, SAM-CLIP was expected. Set segment.model and segment.backbone to fit",
    ),
    "HQ-SAM for WSI-SAM": ("wsi-sam", _write(_whole("hq", "vit_b")), {}, "holds HQ-SAM for vit_b, but one of SAM, WSI"),
    "HQ-SAM for PA-SAM": (
        "pa-sam",
        _write(_whole("hq", "vit_b")),
        {},
        "holds HQ-SAM for vit_b, but one of SAM, PA-SAM, PA-SAM mask decoder was expected",
    ),
    "PA-SAM for HQ-SAM": (
        "hq-sam",
        _write(_whole("pa", "vit_l")),
        {},
        "holds PA-SAM for vit_l, but one of SAM, HQ-SAM, HQ-SAM or WSI-SAM mask decoder was expected",
    ),
    "plain decoder for PA-SAM": (
        "pa-sam",
        _write(_decoder("sam")),
        {},
        "holds SAM mask decoder, but one of SAM, PA-SAM, PA-SAM mask decoder was expected",
    ),
    "both heads of WSI-SAM for HQ-SAM": (
        "hq-sam",
        _write(_both_heads()),
        {},
        "holds WSI-SAM decoders (high and low) for MobileSAM (TinyViT) or LiteMedSAM, but one of SAM, HQ-SAM",
    ),
    "whole WSI-SAM for PA-SAM": (
        "pa-sam",
        _write(_both_heads() | _with_prefix("sam.", _whole("sam", "vit_t"))),
        {},
        "holds WSI-SAM (backbone and both decoders) for MobileSAM (TinyViT), but one of SAM, PA-SAM",
    ),
    "whole HQ-SAM on another backbone": (
        "hq-sam",
        _write(_whole("hq", "vit_b")),
        {"backbone": "vit-l"},
        "holds HQ-SAM for vit_b, but vit_l was expected. Set segment.model and segment.backbone",
    ),
    "HQ decoder on another backbone": (
        "hq-sam",
        _write(_decoder("hq", "vit_b")),
        {"backbone": "vit-l"},
        "holds HQ-SAM or WSI-SAM mask decoder for vit_b, but vit_l was expected",
    ),
    "PA decoder without a backbone": (
        "pa-sam",
        _write(_decoder("pa")),
        {},
        "holds PA-SAM mask decoder, which does not say the backbone it was trained on. Set segment.backbone.",
    ),
    "another network": ("hq-sam", _write({"fc.bias": torch.zeros(2)}), {}, "parameters of another kind of network"),
    "pickled code": (
        "pa-sam",
        _write({"model": nn.Linear(1, 1)}),
        {},
        "holds pickled code (torch.nn.modules.linear.Linear)",
    ),
    "cut short": ("hq-sam", _write_cut, {}, "is cut short or damaged"),
    "missing": ("pa-sam", lambda path: None, {}, "no such weight file"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_file_is_one_clear_line(mistake: str, tmp_path: Path) -> None:
    model, write, keys, message = WRONG[mistake]
    path = tmp_path / "file.pth"
    write(path)
    with pytest.raises(WeightsError) as caught:
        PLANS[model](SegmentSettings(model=model, weights=str(path), **keys))
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("model", ["sam", "hq-sam", "pa-sam"])
def test_low_decoder_is_for_wsi_sam_only(model: str, tmp_path: Path) -> None:
    low = _saved(tmp_path / "net_low.pth", _decoder("hq"))
    for high in (None, low):
        with pytest.raises(WorkflowError) as caught:
            PLANS[model](SegmentSettings(model=model, weights=high, weights_low=low))
        assert str(caught.value) == f"segment.weights_low: model {model} has one decoder. Remove the key."


@pytest.mark.parametrize(
    ("model", "keys", "message"),
    [
        ("pa-sam", {"backbone": "resnet"}, "refine.backbone: no such backbone: resnet"),
        ("hq-sam", {"weights_low": "x.pth"}, "refine.weights_low: model hq-sam has one decoder"),
        ("wsi-sam", {"weights_low": "x.pth"}, "refine.weights_low: names a low decoder.* Set refine.weights too"),
        ("wsi-sam", {"weights": "hq.pth"}, "Set refine.weights_low to its file"),
        (
            "wsi-sam",
            {"weights": "hq.pth", "weights_low": "hq.pth"},
            "Set refine.weights to the high decoder and refine",
        ),
        ("sam", {"weights": "hq.pth"}, "Set refine.model and refine.backbone"),
        ("pa-sam", {"weights": "pa.pth"}, "Set refine.backbone"),
    ],
)
def test_messages_name_the_section_that_is_wrong(
    model: str, keys: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _saved(tmp_path / "hq.pth", _decoder("hq"))
    _saved(tmp_path / "pa.pth", _decoder("pa"))
    with pytest.raises(WsiPipelineError, match=message) as caught:
        PLANS[model](RefineSettings(model=model, **keys), section="refine")
    assert "segment" not in str(caught.value)
