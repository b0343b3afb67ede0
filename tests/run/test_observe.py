"""Who is told of a run: stderr, and the files that were asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.errors import OutputError
from wsi_pipeline.run.observe import reporters

HAS_FULL_DISK = Path("/dev/full").exists()


def tell(reporter: Any) -> None:
    reporter.slides(1)
    reporter.start("a", "segment", 0, 2)
    reporter.advance("a", "segment")
    reporter.finish("a", "done", objects=3)
    reporter.say("that is all")


def test_the_log_has_the_lines_of_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    with reporters(log, tmp_path / "run.prom") as reporter:
        tell(reporter)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line | {"time": 0} for line in lines] == [line | {"time": 0} for line in said]
    assert [line["event"] for line in lines] == ["slides", "stage", "slide", "message"]
    assert 'wsi_pipeline_slides{run="run",state="done"} 1.0' in (tmp_path / "run.prom").read_text()


def test_the_log_of_the_next_run_comes_after_that_of_the_last(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        with reporters(log, None) as reporter:
            tell(reporter)
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()].count("slides") == 2


@pytest.mark.parametrize("option", ["log", "prometheus"])
def test_a_file_that_cannot_be_opened_is_one_line_before_anything_starts(tmp_path: Path, option: str) -> None:
    path = tmp_path / "none" / "file"
    files = (path, None) if option == "log" else (None, path)
    with pytest.raises(OutputError) as error, reporters(*files):
        pytest.fail("it started")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not HAS_FULL_DISK, reason="no /dev/full on this system")
def test_a_log_on_a_full_disk_stops_nothing() -> None:
    with reporters(Path("/dev/full"), None) as reporter:
        for _ in range(2000):
            tell(reporter)
