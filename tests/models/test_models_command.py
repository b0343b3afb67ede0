"""`wsi-pipeline models` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from typer.testing import CliRunner

from wsi_pipeline.cli import models
from wsi_pipeline.cli.models import app
from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models import weights
from wsi_pipeline.models.head_prompts import prompts_metadata
from wsi_pipeline.models.weights import catalogue


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSI_PIPELINE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(models, "console", Console(width=200))


def _run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _decoder(path: Path) -> Path:
    torch.save({"hf_token.weight": torch.ones(1), "compress_vit_feat.0.weight": torch.zeros(160, 1, 2, 2)}, path)
    return path


def test_command_is_imported_without_anything_heavy() -> None:
    code = "import sys, wsi_pipeline.cli.models; assert not {'torch', 'requests', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_list_loads_neither_torch_nor_networks() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from wsi_pipeline.cli.models import app;"
        "assert CliRunner().invoke(app, ['list']).exit_code == 0;"
        "assert not {'torch', 'requests', 'skimage'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_list_says_where_everything_is_and_what_is_untrained() -> None:
    table = " ".join(_run("list").split())
    assert "256 px; boxes only; trained here" in table
    listed = json.loads(_run("list", "--json"))
    (wsi,) = [model for model in listed["models"] if model["name"] == "wsi-sam"]
    assert wsi["status"] == "trained heads ship for lite-medsam; on other backbones untrained unless weights are given"
    assert {model["name"] for model in listed["models"]} >= {"sam", "wsi-sam"}
    where = {row["name"]: (row["where"], row["here"]) for row in listed["weights"]}
    assert where["lite-medsam"] == ("embedded", True)
    assert where["wsi-sam-litemedsam"] == ("shipped", True)
    assert where["sam-vit-h"] == ("download", False)
    assert where["wsi-sam-tiny-low"] == ("by path", False)
    assert where["pa-sam-vit-l"] == ("by path", False)
    assert where["hq-sam-litemedsam"] == where["pa-sam-litemedsam"] == ("shipped", True)


def test_list_and_show_say_what_is_known_about_a_published_file() -> None:
    rows = {row["name"]: row for row in json.loads(_run("list", "--json"))["weights"]}
    row = rows["hq-sam-vit-b"]
    assert row["url"].startswith("https://huggingface.co/lkeab/hq-sam/")
    assert row["sha256"].startswith("14a9d662cd6f")
    assert (row["size"], row["licence"]) == (379335069, "Apache-2.0")
    assert "arXiv:2306.01567" in row["citation"]
    assert (rows["pa-sam-vit-l"]["url"], rows["pa-sam-vit-l"]["sha256"]) == (None, None)
    shown = _run("show", "hq-sam-vit-b")
    for fact in ("sha256", "licence", "citation"):
        assert row[fact] in shown
    assert row["url"] in shown.replace("\n", "").replace(" ", "")


def test_imported_files_are_listed_as_stored(tmp_path: Path) -> None:
    file = _decoder(tmp_path / "net_low.pth")
    assert "hq-decoder" in _run("import", str(file), "--name", "wsi-sam-tiny-low")
    _run("import", str(file), "--name", "mine", "--licence", "MIT")
    rows = {row["name"]: row for row in json.loads(_run("list", "--json"))["weights"]}
    assert rows["wsi-sam-tiny-low"]["where"] == "stored"
    assert (rows["mine"]["where"], rows["mine"]["licence"]) == ("stored", "MIT")
    shown = json.loads(_run("show", "mine", "--json"))
    assert shown["source"] == "net_low.pth"
    assert Path(shown["path"]).is_file()


def test_verify_takes_all_that_is_here_by_default(tmp_path: Path) -> None:
    _run("import", str(_decoder(tmp_path / "net.pth")), "--name", "mine")
    lines = dict(line.split(": ", 1) for line in _run("verify").splitlines())
    shipped = {entry.name for entry in catalogue().values() if entry.where == "shipped"}
    assert set(lines) == {"lite-medsam", "mine"} | shipped
    assert all(line.endswith("as expected") for line in lines.values())
    assert _run("verify", str(tmp_path / "net.pth")).strip().endswith("nothing to compare it with")


def test_show_reads_a_file_by_path(tmp_path: Path) -> None:
    shown = json.loads(_run("show", str(_decoder(tmp_path / "net.pth")), "--json"))
    assert shown["holds"] == "HQ-SAM or WSI-SAM mask decoder for MobileSAM (TinyViT) or LiteMedSAM"
    assert (shown["tensors"], shown["parameters"]) == (2, 641)


def test_show_says_what_a_head_was_trained_to_answer(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    state = {"hf_token.weight": torch.ones(1), "compress_vit_feat.0.weight": torch.zeros(160, 1, 2, 2)}
    save_file(state, path, metadata=prompts_metadata(["point", "box"]))
    _run("import", str(path), "--name", "mine")
    for name in (str(path), "mine"):
        assert json.loads(_run("show", name, "--json"))["prompts"] == "box, point"
    assert "prompts" not in json.loads(_run("show", "lite-medsam", "--json"))


def test_fetching_an_embedded_file_names_its_place() -> None:
    assert _run("fetch", "lite-medsam").strip().endswith("lite_medsam.pth")


def test_fetching_what_has_no_address_says_where_to_get_it() -> None:
    with pytest.raises(WeightsError, match=r"Get epoch_20.pth from https://github.com/xzz2/pa-sam, then run"):
        _run("fetch", "pa-sam-vit-l")


def test_fetch_checks_every_name_before_it_loads_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "fetch", lambda *args, **keys: pytest.fail("nothing may be fetched"))
    with pytest.raises(WeightsError, match="no such weights"):
        CliRunner().invoke(app, ["fetch", "mobile-sam", "mobile-sma"], catch_exceptions=False)
