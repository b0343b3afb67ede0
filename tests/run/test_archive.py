"""Broken slides of an archive fail, each with its reason; all others are what they are when run alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks.mixed_archive.archive import Archive, build
from benchmarks.mixed_archive.broken import BROKEN
from wsi_pipeline.run.ledger import SlideRow, read_ledger

pytestmark = pytest.mark.slow

WHOLE = 24
RESULTS = ("slide.json", "annotations.geojson", "objects.parquet")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return build(tmp_path_factory.mktemp("archive") / "slides", WHOLE)


@pytest.fixture(scope="module")
def words(tools: Any) -> list[str]:
    settings = tools.threshold | {"export.overview": False}
    return ["-w", "nuclei", *tools.arguments(settings)]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "out"


@pytest.fixture(scope="module")
def first(tools: Any, archive: Archive, words: list[str], output: Path) -> Any:
    """The run over everything."""
    return tools.call("run", *archive.given, *words, "-o", output, "--workers", 2)


def rows(output: Path) -> dict[str, SlideRow]:
    """What the ledger says of every slide, by its path."""
    return {row.path: row for row in read_ledger(output / "ledger.jsonl")}


def test_archive_with_broken_slides_ends_with_3(first: Any) -> None:
    assert first.code == 3, first.err
    assert first.out == ""
    assert all(first.events), "a line that is no event"


def test_exactly_the_broken_slides_fail(archive: Archive, first: Any, output: Path) -> None:
    assert len(archive.whole) == WHOLE
    assert len(archive.broken) == 12
    states = {path: row.state for path, row in rows(output).items()}
    assert states == archive.whole | dict.fromkeys(archive.broken, "failed")


@pytest.mark.parametrize("name", [one.name for one in BROKEN])
def test_broken_slide_says_what_is_wrong_with_it(archive: Archive, first: Any, output: Path, name: str) -> None:
    path, reason = next(item for item in archive.broken.items() if Path(item[0]).name == name)
    row = rows(output)[path]
    assert re.search(reason, row.reason or ""), row.reason
    assert name in str(row.reason).split(": ")[0]
    assert first.slides()[row.id]["reason"] == row.reason
    assert not [file for file in RESULTS if (output / row.id / file).exists()]
    assert not (output / row.id / "error.txt").exists(), "it was not foreseen"


def test_report_begins_with_what_failed(first: Any, output: Path) -> None:
    shown = re.findall(r'<tr data-state="(\w+)">', (output / "report.html").read_text(encoding="utf-8"))
    assert shown == ["failed"] * 12 + ["empty"] * shown.count("empty") + ["done"] * shown.count("done")
    assert len(shown) == WHOLE + 12


@pytest.mark.parametrize("kind", ["other/plain-000.tif", "kept/zarr-005.ome.zarr", "kept/pyramid-003.tif"])
def test_slide_among_broken_ones_gives_the_bytes_it_gives_alone(
    tools: Any, archive: Archive, words: list[str], cluster: str, first: Any, output: Path, tmp_path: Path, kind: str
) -> None:
    path = next(path for path in archive.whole if path.endswith(kind))
    alone = tools.call_here("run", path, *words, "-o", tmp_path / "out", "--cluster", cluster)
    assert alone.code == 0, alone.err
    (slide,) = alone.slides()
    assert tools.contents(tmp_path / "out" / slide) == tools.contents(output / rows(output)[path].id)
    assert json.loads((tmp_path / "out" / slide / "slide.json").read_text())["objects"] > 0


def test_second_run_tries_only_what_failed(
    tools: Any, archive: Archive, words: list[str], cluster: str, first: Any, output: Path
) -> None:
    done = [output / row.id for path, row in rows(output).items() if path in archive.whole]
    before = {path: path.stat().st_mtime_ns for folder in done for path in folder.rglob("*")}
    again = tools.call_here("run", *archive.given, *words, "-o", output, "--cluster", cluster)
    assert again.code == 3
    begun = {event["slide"] for event in again.events if event["event"] == "stage"}
    failed = {row.id for path, row in rows(output).items() if path in archive.broken}
    assert begun < failed, "those that cannot be opened begin no stage"
    assert {name for name, event in again.slides().items() if event["state"] == "failed"} == failed
    assert {path: path.stat().st_mtime_ns for path in before} == before
