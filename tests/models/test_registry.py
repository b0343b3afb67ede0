"""Models by name, the files they mean, and the prompts they take."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models import registry, resolve, weights
from wsi_pipeline.models.checkpoints import read_state_dict
from wsi_pipeline.models.head_prompts import prompts_metadata
from wsi_pipeline.models.precision import reference_pair
from wsi_pipeline.models.registry import (
    ModelSpec,
    available_models,
    build_segmenter,
    find_model,
    prompt_kinds,
    weights_of,
)
from wsi_pipeline.models.resolve import BACKBONES, sam_plan, wsi_sam_plan
from wsi_pipeline.models.roles import PromptBatch
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.run.checks import check_models, check_prompt_kinds, check_prompts
from wsi_pipeline.workflow import (
    GridPrompts,
    NucleusDetectorPrompts,
    QuPathPrompts,
    SegmentSettings,
    TissueBoxPrompts,
    Workflow,
    parse_workflow,
)

LITE_MEDSAM = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSI_PIPELINE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")


def _settings(**keys: Any) -> SegmentSettings:
    return SegmentSettings(device="cpu", precision="fp32").model_copy(update=keys)


def _plug_in(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    """Pretend an installed package brings these entry points."""
    module = type(sys)("plugged_in")
    for name, value in values.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "plugged_in", module)
    points = [EntryPoint(name, f"plugged_in:{name}", registry.ENTRY_POINT_GROUP) for name in values]
    points.append(EntryPoint("broken", "plugged_in:absent", registry.ENTRY_POINT_GROUP))
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


def _sam_file(path: Path, variant: str) -> str:
    width = {"vit_b": 768, "vit_l": 1024}[variant]
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(width, 3, 1, 1)}, path)
    return str(path)


def _decoder_file(path: Path, rows: int) -> str:
    torch.save({"hf_token.weight": torch.zeros(1), "compress_vit_feat.0.weight": torch.zeros(rows, 1, 2, 2)}, path)
    return str(path)


def test_registry_is_imported_without_torch() -> None:
    code = (
        "import sys, wsi_pipeline.models.registry as r, wsi_pipeline.run.checks; r.available_models();"
        "assert not {'torch', 'requests', 'skimage'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_default_model_is_wsi_sam_on_the_embedded_backbone() -> None:
    plan = wsi_sam_plan(SegmentSettings())
    assert plan.backbone.name == "lite-medsam"
    assert list(plan.files) == ["sam", "wsi-heads"]
    assert weights_of(SegmentSettings())[0] == {"role": "sam", "file": "lite_medsam.pth", "sha256": LITE_MEDSAM}


def test_model_list_says_where_heads_are_trained() -> None:
    specs = {spec.name: spec for spec in available_models()}
    assert set(specs) >= {"sam", "hq-sam", "pa-sam", "wsi-sam"}
    for name in ("hq-sam", "pa-sam", "wsi-sam"):
        assert specs[name].status.startswith("trained heads ship for lite-medsam; on other backbones untrained")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(WorkflowError, match=r"no such model: sam3.*one of sam, hq-sam, pa-sam, wsi-sam"):
        build_segmenter(_settings(model="sam3"))
    with pytest.raises(WorkflowError, match=r"no such backbone: resnet.*one of lite-medsam, mobile-sam, vit-b"):
        build_segmenter(_settings(backbone="resnet"))
    with pytest.raises(WorkflowError, match="no such backbone: resnet"):
        prompt_kinds(_settings(backbone="resnet"))
    with pytest.raises(WorkflowError, match="no such device: gpu"):
        build_segmenter(_settings(device="gpu"))


def test_backbone_follows_the_weight_file(tmp_path: Path) -> None:
    path = _sam_file(tmp_path / "any.pth", "vit_l")
    assert sam_plan(_settings(weights=path)).backbone.name == "vit-l"
    assert wsi_sam_plan(_settings(weights=path)).backbone.name == "vit-l"
    assert prompt_kinds(_settings(weights=path)) == {"box", "point", "mask"}


def _head_file(path: Path, metadata: dict[str, str] | None) -> str:
    """The HQ-SAM head that ships, in a file that says something else."""
    save_file(read_state_dict(weights.locate("hq-sam-litemedsam")), path, metadata=metadata)
    return str(path)


def test_a_head_takes_the_prompts_that_its_file_says_it_was_trained_on(tmp_path: Path) -> None:
    said = _head_file(tmp_path / "said.safetensors", prompts_metadata(["point", "box"]))
    silent = _head_file(tmp_path / "silent.safetensors", None)
    for path, kinds in ((said, {"box", "point"}), (silent, {"box"})):
        settings = _settings(model="hq-sam", weights=path, backbone="lite-medsam")
        assert prompt_kinds(settings) == kinds
        model = build_segmenter(settings)
        assert isinstance(model, BatchedSegmenter)
        assert model.prompt_kinds == kinds
    with pytest.raises(WorkflowError, match=r"hq-sam on lite-medsam takes boxes only, not points"):
        check_prompt_kinds(_settings(model="hq-sam", weights=silent, backbone="lite-medsam"), {"point"})
    check_prompt_kinds(_settings(model="hq-sam", weights=said, backbone="lite-medsam"), {"point"})


def test_a_head_that_names_unknown_prompts_is_refused(tmp_path: Path) -> None:
    path = _head_file(tmp_path / "new.safetensors", {"prompts": "box,scribble"})
    with pytest.raises(WeightsError, match=r"new.safetensors: was trained on unknown prompts: box,scribble"):
        prompt_kinds(_settings(model="hq-sam", weights=path, backbone="lite-medsam"))


def test_automatic_masks_need_a_backbone_that_guesses_whatever_the_head_takes(tmp_path: Path) -> None:
    path = _head_file(tmp_path / "head.safetensors", prompts_metadata(["point", "box", "mask"]))
    with pytest.raises(WorkflowError) as caught:
        check_prompts(_settings(model="hq-sam", weights=path, backbone="lite-medsam"), GridPrompts(source="grid"))
    assert str(caught.value) == (
        "prompts.source: hq-sam on lite-medsam does not guess, and automatic masks are chosen among guesses. Set "
        "segment.backbone to mobile-sam or vit-b or vit-l or vit-h, or give another source of prompts."
    )


def test_weight_file_of_another_backbone_is_refused(tmp_path: Path) -> None:
    path = _sam_file(tmp_path / "any.pth", "vit_l")
    for plan in (sam_plan, wsi_sam_plan):
        with pytest.raises(WeightsError, match=r"holds SAM vit_l, but vit_b was expected.*segment.backbone"):
            plan(_settings(weights=path, backbone="vit-b"))


def test_decoder_in_place_of_a_sam_is_refused(tmp_path: Path) -> None:
    path = _decoder_file(tmp_path / "net_high.pth", 160)
    with pytest.raises(
        WeightsError, match=r"holds HQ-SAM or WSI-SAM mask decoder .* but one of SAM, SAM-CLIP was expected"
    ):
        sam_plan(_settings(weights=path))


def test_published_decoders_go_on_mobile_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    high, low = _decoder_file(tmp_path / "net_high.pth", 160), _decoder_file(tmp_path / "net_low.pth", 160)
    with pytest.raises(WeightsError, match="models fetch mobile-sam"):
        wsi_sam_plan(_settings(weights=high, weights_low=low))
    monkeypatch.setattr(resolve, "locate", lambda name: Path(name))
    plan = wsi_sam_plan(_settings(weights=high, weights_low=low))
    assert {role: path.name for role, path in plan.files.items()} == {
        "sam": "mobile-sam",
        "high": "net_high.pth",
        "low": "net_low.pth",
    }
    assert wsi_sam_plan(_settings(weights=high, weights_low=low, backbone="lite-medsam")).backbone.name == "lite-medsam"


def test_decoder_mistakes_are_named(tmp_path: Path) -> None:
    high, low = _decoder_file(tmp_path / "net_high.pth", 160), _decoder_file(tmp_path / "net_low.pth", 160)
    wide = _decoder_file(tmp_path / "wide.pth", 768)
    with pytest.raises(WeightsError, match="swapped or the same file"):
        wsi_sam_plan(_settings(weights=low, weights_low=high))
    with pytest.raises(WeightsError, match="swapped or the same file"):
        wsi_sam_plan(_settings(weights=high, weights_low=high))
    with pytest.raises(WeightsError, match=r"the low one is missing.*segment.weights_low"):
        wsi_sam_plan(_settings(weights=high))
    with pytest.raises(WorkflowError, match="low decoder without a high one"):
        wsi_sam_plan(_settings(weights_low=low))
    with pytest.raises(WeightsError, match="for vit_b, but MobileSAM"):
        wsi_sam_plan(_settings(weights=high, weights_low=wide))
    with pytest.raises(WorkflowError, match="model sam has one decoder"):
        sam_plan(_settings(model="sam", weights_low=low))


def test_points_for_a_model_of_boxes_are_refused_with_a_way_out() -> None:
    with pytest.raises(WorkflowError) as caught:
        check_prompts(_settings(weights="lite-medsam"), GridPrompts(source="grid"))
    assert str(caught.value) == (
        "prompts.source: wsi-sam on lite-medsam takes boxes only, not points. Set segment.backbone to mobile-sam or "
        "vit-b or vit-l or vit-h, or give boxes."
    )
    check_prompts(_settings(backbone="vit-b"), GridPrompts(source="grid"))


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_boxes_suit_every_backbone(backbone: str) -> None:
    for prompts in (
        TissueBoxPrompts(source="tissue-boxes"),
        NucleusDetectorPrompts(source="nucleus-detector"),
        QuPathPrompts(source="qupath"),
    ):
        check_prompts(_settings(backbone=backbone), prompts)


def test_kinds_found_in_a_file_are_checked_with_its_name() -> None:
    untrained = _settings(weights="lite-medsam")
    check_prompt_kinds(untrained, {"box", "mask"}, where="a.geojson")
    with pytest.raises(WorkflowError, match=r"^a.geojson: wsi-sam on lite-medsam takes boxes only, not points"):
        check_prompt_kinds(untrained, {"box", "point"}, where="a.geojson")


def test_default_model_is_the_same_in_every_process() -> None:
    from wsi_pipeline.models.builders import load_wsi_sam

    one, other = (load_wsi_sam(wsi_sam_plan(_settings())).state_dict() for _ in range(2))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    sam = read_state_dict(weights.locate("lite-medsam"))
    assert all(torch.equal(value, one[f"sam.{key}"]) for key, value in sam.items())


def test_whole_wsi_sam_and_heads_alone_load_back(tmp_path: Path) -> None:
    from wsi_pipeline.models.builders import load_wsi_sam

    state = load_wsi_sam(wsi_sam_plan(_settings())).state_dict()
    state["low.hf_token.weight"] = torch.full_like(state["low.hf_token.weight"], 3.0)
    whole, heads = tmp_path / "whole.pth", tmp_path / "heads.pth"
    torch.save(state, whole)
    torch.save({key: value for key, value in state.items() if not key.startswith("sam.")}, heads)
    for keys in ({"weights": str(whole)}, {"weights": str(heads), "backbone": "lite-medsam"}):
        plan = wsi_sam_plan(_settings(**keys))
        assert plan.backbone.name == "lite-medsam"
        loaded = load_wsi_sam(plan).state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in state.items())


def test_two_decoder_files_land_in_their_branches(tmp_path: Path) -> None:
    from wsi_pipeline.models.builders import load_wsi_sam

    state = load_wsi_sam(wsi_sam_plan(_settings())).state_dict()
    paths = {}
    for number, branch in enumerate(("high", "low")):
        part = {key.removeprefix(f"{branch}."): value for key, value in state.items() if key.startswith(f"{branch}.")}
        part["hf_token.weight"] = torch.full_like(part["hf_token.weight"], float(number))
        paths[branch] = tmp_path / f"net_{branch}.pth"
        torch.save({"model": part, "optimizer": {}, "epoch": 1}, paths[branch])
    settings = _settings(weights=str(paths["high"]), weights_low=str(paths["low"]), backbone="lite-medsam")
    model = load_wsi_sam(wsi_sam_plan(settings))
    assert float(model.high.hf_token.weight.mean()) == 0.0
    assert float(model.low.hf_token.weight.mean()) == 1.0
    del part["iou_token.weight"]
    torch.save(part, paths["low"])
    with pytest.raises(WeightsError, match=r"net_low.pth: does not fit the network: 1 missing \(iou_token.weight\)"):
        load_wsi_sam(wsi_sam_plan(settings))


@pytest.mark.slow
def test_decoders_made_of_the_backbone_draw_what_it_draws() -> None:
    pairs, boxes = reference_pair(256)
    prompts = PromptBatch(np.zeros(2, np.int64), boxes=boxes[:2])
    models = [build_segmenter(_settings(model=name, weights="lite-medsam")) for name in ("sam", "wsi-sam")]
    for model in models:
        assert model.prompt_kinds == {"box"}
    backbone, default = (model.decode(model.encode(pairs), prompts, margin=0.5) for model in models)
    assert np.array_equal(backbone.origin, default.origin)
    assert np.abs(backbone.logits - default.logits).max() < 1e-3
    assert (backbone.logits > 0).any(axis=(1, 2)).all()


def test_plug_in_is_listed_built_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[Any] = []
    file = tmp_path / "mine.bin"
    file.write_bytes(b"mine")
    spec = ModelSpec(
        name="mine",
        roles=("Segmenter",),
        description="a test",
        build=lambda settings, *, device, dtype: built.append((settings.model, device, dtype)) or "model",
        prompt_kinds=frozenset({"point"}),
        weight_files=lambda settings: {"mine": file},
    )
    _plug_in(monkeypatch, mine=spec, other="not a spec", sam=spec)
    assert [one.name for one in available_models()] == [
        "sam",
        "hq-sam",
        "pa-sam",
        "wsi-sam",
        "lora-sam",
        "domain-decoder",
        "matcher",
        "ov-sam",
        "sam-clip",
        "sam-clip-regions",
        "sapnet",
        "sapnet-select",
        "semantic-sam",
        "mine",
    ]
    assert find_model("sam") is not spec
    settings = _settings(model="mine")
    assert build_segmenter(settings, dtype="fp32") == "model"
    assert built == [("mine", "cpu", "fp32")]
    assert [one["file"] for one in weights_of(settings)] == ["mine.bin"]
    with pytest.raises(WorkflowError, match=r"mine takes points only, not boxes. Use another model"):
        check_prompts(settings, TissueBoxPrompts(source="tissue-boxes"))


def test_plug_in_that_does_not_load_harms_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _plug_in(monkeypatch, other="not a spec")
    assert [one.name for one in available_models()] == [
        "sam",
        "hq-sam",
        "pa-sam",
        "wsi-sam",
        "lora-sam",
        "domain-decoder",
        "matcher",
        "ov-sam",
        "sam-clip",
        "sam-clip-regions",
        "sapnet",
        "sapnet-select",
        "semantic-sam",
    ]
    assert "broken is left out" in caplog.text
    with pytest.raises(WorkflowError, match=r"broken: the plug-in does not load.*Repair or uninstall"):
        find_model("broken")
    with pytest.raises(WorkflowError, match="other: the plug-in is no ModelSpec"):
        find_model("other")


def _workflow(**sections: Any) -> Workflow:
    return parse_workflow({"name": "test", "mpp": 0.5, "prompts": {"source": "nucleus-detector"}, **sections})


def test_a_refine_stage_is_checked_like_a_segment_stage() -> None:
    assert check_models(_workflow(segment="sam", refine="pa-sam")) == []
    with pytest.raises(WorkflowError, match=r"refine\.model: no such model: sharper"):
        check_models(_workflow(segment="sam", refine="sharper"))
    with pytest.raises(WorkflowError, match=r"refine\.backbone: no such backbone: swin"):
        check_models(_workflow(segment="sam", refine={"model": "hq-sam", "backbone": "swin"}))


def test_an_image_text_network_for_a_model_that_takes_none_is_refused() -> None:
    with pytest.raises(WorkflowError, match=r"segment\.clip: wsi-sam takes no image-text network"):
        check_models(_workflow(segment={"model": "wsi-sam", "clip": {"path": "clip.pt"}}))


def test_the_high_quality_token_alone_needs_a_trained_branch() -> None:
    with pytest.raises(WorkflowError, match=r"segment\.hq_token_only: .* not trained"):
        check_models(_workflow(segment={"model": "hq-sam", "weights": "lite-medsam", "hq_token_only": True}))
    assert check_models(_workflow(segment={"model": "hq-sam", "hq_token_only": True})) == []


def test_guesses_asked_of_a_model_without_them_are_a_warning() -> None:
    (warning,) = check_models(_workflow(segment={"model": "sam", "multimask": True}))
    assert warning == "segment.multimask: lite-medsam gives one mask per prompt, and that one is taken"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hq-sam", "pa-sam"])
def test_an_untrained_head_answers_as_its_backbone(name: str) -> None:
    patch, boxes = reference_pair(256)
    prompts = PromptBatch(np.zeros(len(boxes), np.int64), boxes=boxes)
    answers = []
    for model in ("sam", name):
        segmenter = build_segmenter(_settings(model=model, weights="lite-medsam"), dtype="fp32")
        answers.append(segmenter.decode(segmenter.encode(patch), prompts, margin=0.5))
    np.testing.assert_allclose(answers[0].logits, answers[1].logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(answers[0].iou, answers[1].iou, rtol=1e-3, atol=1e-3)
