"""Segment and refine stages from the command line, with the real network: one embedding per patch, kept on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

FP32 = {"segment.precision": "fp32", "tissue.method": "none", "export.overview": False}


@pytest.fixture(scope="module")
def slide(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As large as one tile."""
    return tools.write_tiff(tmp_path_factory.mktemp("slide") / "ovals.tif", tools.stained(256, 256, 6))


def facts_of(folder: Path) -> dict[str, Any]:
    tasks = json.loads((folder / "ovals" / "slide.json").read_text())["tasks"]
    return {"patches": tasks["segment"]["patches"], "refine": tasks["outline"].get("refine")}


@pytest.fixture(scope="module")
def runs(tools: Any, cluster: str, slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Facts of three runs that share a folder of embeddings, in this order."""
    folder, facts = tmp_path_factory.mktemp("runs"), {}
    for name, stages in {
        "segment: wsi-sam, refine: hq-sam": {"segment.model": "wsi-sam", "refine": "hq-sam"},
        "segment: sam, refine: pa-sam": {"segment.model": "sam", "refine": "pa-sam"},
        "segment: hq-sam": {"segment.model": "hq-sam"},
    }.items():
        output = folder / str(len(facts))
        words = tools.arguments(FP32 | stages)
        result = tools.call_here(
            *("run", slide, "-w", "nuclei", "-o", output, "--cluster", cluster),
            *("--cache-embeddings", folder / "embeddings", *words),
        )
        assert result.code == 0, result.err
        facts[name] = facts_of(output)
    return facts


def test_both_stages_share_one_embedding_per_patch(runs: dict[str, dict[str, Any]]) -> None:
    first = runs["segment: wsi-sam, refine: hq-sam"]
    assert first["patches"] == {"encoded": 2, "recalled": 1}  # the high and the low patch of the only tile


def test_later_runs_find_the_embeddings_of_earlier_ones(runs: dict[str, dict[str, Any]]) -> None:
    assert runs["segment: sam, refine: pa-sam"]["patches"] == {"encoded": 0, "recalled": 2}
    assert runs["segment: hq-sam"]["patches"] == {"encoded": 0, "recalled": 1}


def test_the_refine_stage_counts_what_it_did(runs: dict[str, dict[str, Any]]) -> None:
    for name, facts in runs.items():
        assert (facts["refine"] is not None) == ("refine" in name)
        if facts["refine"] is not None:
            assert facts["refine"]["refined"] > 0


def test_guesses_asked_of_a_model_without_them_are_said_once(
    tools: Any, cluster: str, slide: Path, tmp_path: Path
) -> None:
    words = tools.arguments(FP32 | {"segment.model": "sam", "segment.multimask": True})
    result = tools.call_here("run", slide, "-w", "nuclei", "-o", tmp_path, "--cluster", cluster, *words)
    assert result.code == 0
    assert result.err.count("segment.multimask: lite-medsam gives one mask per prompt, and that one is taken") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refine": "sharper"}, "refine.model: no such model: sharper"),
        ({"refine.model": "hq-sam", "refine.min_agreement": 2}, "refine.min_agreement: Input should be less than"),
        ({"refine.model": "hq-sam", "refine.weights": "nowhere.pth"}, "nowhere.pth: no such weight file"),
        (
            {"segment.model": "hq-sam", "segment.weights": "lite-medsam", "segment.hq_token_only": True},
            "not trained and alone draws nothing",
        ),
        (
            {"segment.model": "pa-sam", "segment.edges": "sobel"},
            "segment.edges: Input should be 'published' or 'image'",
        ),
    ],
)
def test_stages_that_cannot_work_are_refused_before_anything_runs(
    tools: Any, slide: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    words = tools.arguments(FP32 | settings)
    result = tools.call_here("run", slide, "-w", "nuclei", "-o", tmp_path / "out", *words)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
