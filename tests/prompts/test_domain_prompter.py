"""The domain decoder as a prompter: what it says of objects, and that it costs no encoder call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.domain_decoder.decoder import DecoderFacts, DomainDecoder
from wsi_pipeline.models.domain_decoder.object_map import ObjectMap, detections_of
from wsi_pipeline.models.roles import Prompter
from wsi_pipeline.prompts.facts import prompter_weights
from wsi_pipeline.prompts.sources import build_prompter
from wsi_pipeline.run.checks import check_models
from wsi_pipeline.run.worker_models import prepare_models
from wsi_pipeline.workflow import DomainDecoderPrompts, Workflow, parse_workflow

WHOLE_TILE = {"segment.precision": "fp32", "tissue.method": "none", "export.overview": False}


def write_decoder(path: Path, facts: DecoderFacts, bias: float = 0.0) -> Path:
    """Untrained, but as ready to see an object as ``bias``, a logit, says."""
    decoder = DomainDecoder(facts)
    decoder.maps.bias.data[: len(facts.classes)] = bias
    save_file(decoder.state_dict(), path, metadata=facts.metadata())
    return path


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sees objects all over, and looks at both patches."""
    facts = DecoderFacts(classes=("nucleus", "gland"), backbone="lite-medsam", early_channels=160, context_factor=2.0)
    return write_decoder(tmp_path_factory.mktemp("decoder") / "paired.safetensors", facts, bias=9.0)


def workflow(weights: Path, **prompts: Any) -> Workflow:
    section = {"source": "domain-decoder", "weights": str(weights), "class": "Nucleus"} | prompts
    return parse_workflow({"name": "find", "mpp": "0.5 um/px", "prompts": section, "segment": "sam"})


def test_boxes_points_and_scores_describe_the_objects() -> None:
    labels = np.zeros((256, 256), np.int32)
    labels[10:21, 30:61], labels[100:140, 100:130] = 1, 2
    labels[104:136, 103:112] = 0  # a hole: the middle of the box is in it
    probability = np.where(labels == 1, np.float32(0.75), np.float32(0.5))
    found = detections_of(ObjectMap(labels, labels.astype(np.float32), probability), px=4)
    np.testing.assert_array_equal(found.boxes, np.array([[30, 10, 61, 21], [100, 100, 130, 140]]) * 4)
    np.testing.assert_allclose(found.scores, [0.75, 0.5])
    for number, (x, y) in enumerate(found.points / 4, start=1):
        assert labels[int(y), int(x)] == number


def test_an_empty_patch_has_no_detections() -> None:
    empty = ObjectMap(np.zeros((256, 256), np.int32), *np.zeros((2, 256, 256), np.float32))
    found = detections_of(empty, px=1)
    assert (found.boxes.shape, found.scores.shape, found.points.shape) == ((0, 4), (0,), (0, 2))


def test_it_is_a_prompter_and_tells_its_files(paired: Path) -> None:
    settings = workflow(paired).prompts
    assert isinstance(build_prompter(settings, device="cpu"), Prompter)
    assert [one["role"] for one in prompter_weights(settings)] == ["domain-decoder", "sam"]


def test_a_class_the_decoder_does_not_know_is_refused(paired: Path) -> None:
    check_models(workflow(paired, target="gland"))
    with pytest.raises(
        WorkflowError, match=r"prompts.target: the decoder does not know lumen. Use one of nucleus, gland"
    ):
        check_models(workflow(paired, target="lumen"))


def test_low_patches_that_see_otherwise_than_in_training_are_refused(paired: Path) -> None:
    asked = workflow(paired)
    tiling = asked.tiling.model_copy(update={"context_factor": 3.0})
    with pytest.raises(WorkflowError, match=r"tiling.context_factor: .* 2 times as far"):
        check_models(asked.model_copy(update={"tiling": tiling}))


def test_patches_of_another_size_are_refused(paired: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Large:
        input_size = 1024

    monkeypatch.setattr("wsi_pipeline.run.worker_models.shared_model", lambda settings, dtype: Large())
    with pytest.raises(WorkflowError, match="takes patches of 256 px, the model patches of 1024 px"):
        prepare_models(workflow(paired), {"segment": "fp32"})


@pytest.mark.slow
@pytest.mark.parametrize(("model", "recalled"), [("sam", 1), ("wsi-sam", 2)])
def test_prompter_and_segmenter_share_every_embedding(
    tools: Any, cluster: str, paired: Path, tmp_path: Path, model: str, recalled: int
) -> None:
    slide = tools.write_tiff(tmp_path / "ovals.tif", tools.stained(256, 256, 6))
    source = tmp_path / "find.yaml"
    source.write_text(
        f"name: find\nmpp: 0.5 um/px\nsegment: {model}\n"
        f"prompts: {{source: domain-decoder, weights: {paired}, class: Nucleus, threshold: 0}}\n"
    )
    words = tools.arguments(WHOLE_TILE)
    result = tools.call_here("run", slide, "-w", source, "-o", tmp_path / "out", "--cluster", cluster, *words)
    assert result.code == 0, result.err
    facts = json.loads((tmp_path / "out" / "ovals" / "slide.json").read_text())
    assert facts["tasks"]["segment"]["patches"] == {"encoded": 2, "recalled": recalled}
    used = json.loads((tmp_path / "out" / "run.json").read_text())["weights"]
    assert {"prompts", "segment"} == {one["stage"] for one in used}


def test_settings_have_units() -> None:
    settings = DomainDecoderPrompts.model_validate(
        {"source": "domain-decoder", "weights": "glands", "class": "Gland", "min_area": "300 um2"}
    )
    assert (settings.min_area, settings.class_name, settings.target) == (300.0, "Gland", None)
