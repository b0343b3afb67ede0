"""Cleaning removes what runs wrote, and nothing else whatever lies about."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import OutputError
from wsi_pipeline.run.clean import Removed, clean
from wsi_pipeline.run.lease import Lease
from wsi_pipeline.run.ledger import SlideRow

BETWEEN = [
    ".scratch/fingerprint",
    ".scratch/tasks.jsonl",
    ".scratch/objects/000001.arrow",
    ".scratch/seams/000001.arrow",
    ".scratch/.plan.arrow.0123abcd.partial",
    "masks.ome.zarr/0/c/0/0/0.0123456789abcdef0123456789abcdef.partial",
    "masks.ome.zarr.123.partial/zarr.json",
]
"""Intermediate files of a slide."""

RESULTS = [
    "slide.json",
    "annotations.geojson",
    "annotations.part001.geojson",
    "objects.parquet",
    "masks.ome.zarr/zarr.json",
    "masks.ome.zarr/0/zarr.json",
    "masks.ome.zarr/0/c/0/0/1",
    "masks.ome.zarr/labels/instance/0/c/3/1",
]

FOREIGN = [
    "notes.txt",
    "annotations.corrected.geojson",
    "annotations.partly/mine.geojson",
    "masks.ome.zarr/labels/mine/zarr.json",
    "masks.ome.zarr/README",
    ".scratch/notes.txt",
    ".scratch/objects/mine.arrow",
    "sub/slide.json",
    "sub/.scratch/fingerprint",
    "download.partial",
]
"""What people may put beside."""

LEARNING = [
    ".scratch/checkpoint.pt",
    ".scratch/curves.csv",
    ".scratch/embeddings/0f/0f12.safetensors",
    ".scratch/embeddings/proposals/ab/abcd.safetensors",
    ".scratch/embeddings/0f/.0f34.safetensors.0123abcd.partial",
    "clicks/done/.scratch/fingerprint",
    ".lease",
]
"""What is needed to go on learning, or was left when that was killed."""

WEIGHTS = ["sapnet.safetensors", "sapnet.json", "curves.csv", "learned.json"]
OUTLINED = ["run.json", "report.html", "ledger.jsonl", "done/slide.json", "done/annotations.geojson"]
"""What was learned, and the run that outlined the clicks."""

ROWS = [
    SlideRow("done", "/in/done.svs", state="done"),
    SlideRow("failed", "/in/failed.svs", state="failed", reason="no"),
    SlideRow("half", "/in/half.svs", state="running"),
]


def write(path: Path, text: str = "12345") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def archive(output: Path) -> Path:
    """An output folder with everything a run may leave."""
    write(output / "ledger.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in ROWS))
    for name in ("run.json", "report.html", ".progress.json", ".lease-1-of-2", ".run.json.0123abcd.partial"):
        write(output / name)
    write(output / ".staged" / "0123456789abcdef" / "fedcba9876543210" / "slide.svs")
    for row in ROWS:
        for name in BETWEEN if row.state == "done" else BETWEEN + RESULTS:
            write(output / row.id / name)
    for name in RESULTS:
        write(output / "done" / name)
    write(output / "failed" / "error.txt")
    (output / "half" / ".scratch" / "rows").mkdir()
    return output


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_intermediate_files_go_and_results_stay(tmp_path: Path) -> None:
    output = archive(tmp_path / "out")
    done = clean(output)
    assert done["intermediate files"] == Removed(len(BETWEEN) * 3 + 2, 5 * (len(BETWEEN) * 3 + 2))
    assert done["copies of remote slides"] == Removed(1, 5)
    kept = {f"{row.id}/{name}" for row in ROWS for name in RESULTS}
    assert files(output) == kept | {"failed/error.txt", "ledger.jsonl", "run.json", "report.html", ".progress.json"}
    assert not (output / "half" / ".scratch").exists()


def test_failed_takes_results_of_failed_slides_only(tmp_path: Path) -> None:
    output = archive(tmp_path / "out")
    done = clean(output, failed=True)
    assert done["results of failed slides"].files == len(RESULTS) + 1
    assert not (output / "failed").exists()
    assert (output / "done" / "slide.json").exists()
    assert (output / "half" / "objects.parquet").exists()


def test_all_leaves_nothing(tmp_path: Path) -> None:
    output = archive(tmp_path / "out")
    clean(output, everything=True)
    assert list(output.iterdir()) == []


def test_a_dry_run_finds_the_same_and_removes_nothing(tmp_path: Path) -> None:
    output = archive(tmp_path / "out")
    before = files(output)
    found = clean(output, everything=True, dry_run=True)
    assert files(output) == before
    assert (output / "half" / ".scratch" / "rows").is_dir()
    assert found == clean(output, everything=True)


def learned(output: Path) -> Path:
    """The folder of what was learned, in an output folder, with everything that may be in it."""
    folder = archive(output) / "learned"
    for name in LEARNING + WEIGHTS + [f"clicks/{name}" for name in OUTLINED]:
        write(folder / name)
    write(folder / "clicks" / "ledger.jsonl", json.dumps(asdict(ROWS[0])) + "\n")
    return folder


def test_what_is_needed_to_go_on_learning_is_intermediate(tmp_path: Path) -> None:
    folder = learned(tmp_path / "out")
    done = clean(tmp_path / "out")
    assert done["intermediate files"].files == len(BETWEEN) * 3 + 2 + len(LEARNING)
    assert files(folder) == {*WEIGHTS, *(f"clicks/{name}" for name in OUTLINED)}


def test_what_was_learned_goes_with_all_else_and_nothing_else_does(tmp_path: Path) -> None:
    folder = learned(tmp_path / "out")
    mine = {"notes.txt", "mine.safetensors", "clicks/mine/slide.json", ".scratch/embeddings/mine.safetensors"}
    for name in mine:
        write(folder / name)
    before = files(tmp_path / "out")
    found = clean(tmp_path / "out", everything=True, dry_run=True)
    assert files(tmp_path / "out") == before
    assert found == clean(tmp_path / "out", everything=True)
    assert files(tmp_path / "out") == {f"learned/{name}" for name in mine}
    shutil.rmtree(folder)
    learned(tmp_path / "out")
    clean(tmp_path / "out", everything=True)
    assert list((tmp_path / "out").iterdir()) == []


names = st.sampled_from([*FOREIGN, "run.json", "slide.json", ".scratch/fingerprint", "0123456789abcdef/x"])
places = st.sampled_from(["", "done", "failed", "half", "other", ".staged", "done/sub", "other/.scratch", "half/rows"])


@given(extra=st.sets(st.tuples(places, names), max_size=12), failed=st.booleans(), everything=st.booleans())
def test_foreign_files_survive_wherever_they_lie(
    tmp_path_factory: pytest.TempPathFactory, extra: set[tuple[str, str]], failed: bool, everything: bool
) -> None:
    output = archive(tmp_path_factory.mktemp("archive") / "out")
    ours = files(output)
    theirs = {f"{place}/{name}".lstrip("/") for place, name in extra} - ours
    for name in theirs:
        write(output / name)
    clean(output, failed=failed, everything=everything)
    assert theirs <= files(output)
    shutil.rmtree(output.parent)


def test_links_are_neither_followed_nor_removed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    output = archive(tmp_path / "out")
    for name in BETWEEN + RESULTS:
        write(elsewhere / name)
    (elsewhere / ".scratch" / "rows").mkdir()
    before = files(elsewhere)
    shutil.rmtree(output / "done")
    (output / "done").symlink_to(elsewhere)
    shutil.rmtree(output / "half" / ".scratch")
    (output / "half" / ".scratch").symlink_to(elsewhere / ".scratch")
    (output / "failed" / "objects.parquet").unlink()
    (output / "failed" / "objects.parquet").symlink_to(elsewhere / "objects.parquet")
    clean(output, everything=True)
    assert files(elsewhere) == before
    assert (elsewhere / ".scratch" / "rows").is_dir()
    assert all(path.is_symlink() for path in (output / "done", output / "half" / ".scratch"))


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", ".", "", "/tmp"])
def test_a_ledger_that_names_folders_elsewhere_is_not_believed(tmp_path: Path, name: str) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    write(output / "ledger.jsonl", json.dumps({"id": name, "path": "/in/a.svs", "state": "failed"}) + "\n")
    for folder in (elsewhere, output / "a" / "b", tmp_path):
        write(folder / "slide.json")
    clean(output, failed=True, everything=True)
    assert all((folder / "slide.json").exists() for folder in (elsewhere, output / "a" / "b", tmp_path))


def test_nothing_is_removed_while_a_run_is_alive(tmp_path: Path) -> None:
    output = archive(tmp_path / "out")
    (output / ".lease-1-of-2").unlink()
    before = files(output)
    for lease in (".lease", ".lease-2-of-2"):
        with Lease(output / lease), pytest.raises(OutputError, match="another run is using this folder"):
            clean(output, everything=True)
    assert files(output) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "slide.json")
    with pytest.raises(OutputError, match="is not the output folder of a run"):
        clean(tmp_path, everything=True)


@pytest.mark.slow
def test_all_a_real_run_leaves_is_known(tools: Any, cluster: str, tmp_path: Path) -> None:
    slide = tools.write_tiff(tmp_path / "slide.tif", tools.stained(600, 500, 60))
    (tmp_path / "bad.svs").write_bytes(b"nothing")
    words = "-w", "nuclei", "-o", tmp_path / "out", "--cluster", cluster, "--keep-scratch"
    exports = "--set", "export.csv=true", "--set", "export.ome_tiff=true"
    result = tools.call_here("run", slide, tmp_path / "bad.svs", *words, *exports, *tools.arguments(tools.threshold))
    assert result.code == 3, result.err
    assert tools.call_here("clean", tmp_path / "out").code == 0
    assert not (tmp_path / "out" / "slide" / ".scratch").exists()
    assert tools.call_here("validate", tmp_path / "out" / "slide" / "annotations.geojson").code == 0
    assert tools.call_here("clean", tmp_path / "out", "--all").code == 0
    assert not any((tmp_path / "out").iterdir())
