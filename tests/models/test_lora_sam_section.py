"""``model: lora-sam`` in a workflow: which files it means, and what goes together with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models import weights
from wsi_pipeline.models.lora_sam.file import Facts
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.precision import choose_precision
from wsi_pipeline.models.registry import class_names, find_model, weights_of
from wsi_pipeline.prompts.sources import build_prompter
from wsi_pipeline.run.checks import check_models
from wsi_pipeline.workflow import SegmentSettings, Workflow, parse_workflow


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSI_PIPELINE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Says what it is and holds no network."""
    return write(tmp_path / "lora-sam.safetensors")


def write(path: Path, backbone: str = "lite-medsam") -> str:
    facts = Facts(backbone, LoraSamSettings(classes=("Nucleus", "Gland")))
    save_file({"a": torch.zeros(1)}, path, facts.metadata())
    return str(path)


def section(file: str | None = None, **keys: Any) -> SegmentSettings:
    return SegmentSettings(model="lora-sam", weights=file, **keys)


def workflow(source: str = "segment-model", **segment: Any) -> Workflow:
    return parse_workflow({"name": "test", "mpp": 0.5, "prompts": {"source": source}, "segment": segment})


def test_its_files_are_its_own_and_the_backbone_s(file: str) -> None:
    found = {one["role"]: one["file"] for one in weights_of(section(file))}
    assert found == {"sam": "lite_medsam.pth", "lora-sam": "lora-sam.safetensors"}
    assert class_names(section(file)) == ("Nucleus", "Gland")
    assert check_models(workflow(model="lora-sam", weights=file)) == []


def test_it_is_listed_with_what_ships() -> None:
    spec = find_model("lora-sam")
    assert spec.roles == ("InstanceSegmenter",)
    assert spec.status == "trained weights ship for lite-medsam; on other backbones to be trained"


def test_without_weights_it_is_what_ships_or_says_how_to_get_them() -> None:
    files = {one["role"]: one["file"] for one in weights_of(SegmentSettings(model="lora-sam"))}
    assert files == {"sam": "lite_medsam.pth", "lora-sam": "lora-nuclei-litemedsam.safetensors"}
    assert class_names(SegmentSettings(model="lora-sam")) == ("nucleus",)
    with pytest.raises(WorkflowError) as caught:
        check_models(workflow(model="lora-sam", backbone="vit-b"))
    assert str(caught.value) == (
        "segment.weights: no lora-sam ships for vit-b. Set it to the file that `wsi-pipeline train lora-sam` wrote."
    )


def test_files_of_another_kind_or_backbone_are_refused(file: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lite_medsam.pth: is no trained LoRA-SAM"):
        weights_of(section("lite-medsam"))
    with pytest.raises(WeightsError, match=r"was trained on lite-medsam. Set segment.backbone to it"):
        weights_of(section(file, backbone="vit-b"))
    with pytest.raises(WeightsError, match=r"was trained on the backbone swin that is not known here. Train it again"):
        weights_of(section(write(tmp_path / "other.safetensors", "swin")))
    with pytest.raises(WorkflowError, match=r"segment.weights_low: model lora-sam is one file"):
        weights_of(section(file, weights_low=file))
    with pytest.raises(WeightsError, match=r"holds parameters of another kind of network"):
        weights_of(SegmentSettings(model="sam", weights=file))


@pytest.mark.parametrize("source", ["nucleus-detector", "grid", "tissue-boxes", "qupath"])
def test_it_takes_no_prompts(source: str, file: str) -> None:
    with pytest.raises(WorkflowError, match=r"^prompts.source: lora-sam finds objects by itself and takes no prompts"):
        check_models(workflow(source, model="lora-sam", weights=file))


def test_models_that_find_nothing_by_themselves_need_prompts() -> None:
    said = r"^prompts.source: sam finds nothing by itself. Set segment.model to .*lora-sam.*, or give a source"
    with pytest.raises(WorkflowError, match=said):
        check_models(workflow(model="sam"))
    with pytest.raises(WorkflowError, match=r"prompts.source: segment-model gives no prompts per tile"):
        build_prompter(workflow(model="sam").prompts)


def test_it_refines_nothing(file: str) -> None:
    data = {"name": "test", "mpp": 0.5, "prompts": {"source": "segment-model"}, "segment": "lora-sam"}
    flow = parse_workflow(data | {"refine": {"model": "lora-sam", "weights": file}})
    with pytest.raises(WorkflowError, match=r"refine.model: lora-sam is no Refiner"):
        check_models(flow.model_copy(update={"segment": section(file)}))


def test_precision_is_full_unless_asked_for(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_pipeline.models.precision.has_bf16", lambda device: True)
    assert choose_precision(section(file), device="cpu").dtype == "fp32"
    assert choose_precision(section(file, precision="bf16"), device="cpu").dtype == "bf16"
