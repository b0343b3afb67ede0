"""A run whose segment model finds the objects by itself, from the command line, with the real backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, but for knowing that all is a gland."""
    from wsi_pipeline.models.lora_sam.build import build_lora_sam
    from wsi_pipeline.models.lora_sam.file import Facts, state_of
    from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
    from wsi_pipeline.models.sam import build_sam

    settings = LoraSamSettings(route="instance", rank=2, width=16, finest=2, box_width=16, classes=("Cell", "Gland"))
    torch.manual_seed(0)
    model = build_lora_sam(build_sam("lite_medsam"), settings)
    model.head.roi_head.box_predictor.cls_score.bias.data = torch.tensor([0.0, 0.0, 5.0])
    path = tmp_path_factory.mktemp("weights") / "lora-sam.safetensors"
    save_file(dict(state_of(model)), path, Facts("lite-medsam", settings).metadata())
    return path


def test_objects_carry_the_classes_the_model_was_trained_for(
    tools: Any, cluster: str, weights: Path, tmp_path: Path
) -> None:
    slide = tools.write_tiff(tmp_path / "ovals.tif", tools.stained(256, 256, 6))
    flow = tmp_path / "flow.yaml"
    flow.write_text(
        "name: flow\nmpp: 0.5 um/px\ntissue: {method: none}\n"
        "prompts: {source: segment-model, max_objects: 5}\n"
        f"segment: {{model: lora-sam, weights: {weights}, min_iou: 0.3, precision: fp32}}\n"
        "export: {overview: false}\n"
    )
    result = tools.call_here("run", slide, "-w", flow, "-o", tmp_path / "out", "--cluster", cluster)
    assert result.code == 0, result.err
    features = json.loads((tmp_path / "out" / "ovals" / "annotations.geojson").read_text())["features"]
    names = [one["properties"].get("classification", {}).get("name") for one in features]
    assert 0 < names.count("Gland") <= 5
    assert "Cell" not in names
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "lora-sam.safetensors" in json.dumps(run)
