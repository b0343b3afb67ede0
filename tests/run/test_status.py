"""What is said of a run from outside: its state, its pace, what failed; and trying that again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.cli import status as command
from wsi_pipeline.run.counts import At, Counts, Work
from wsi_pipeline.run.lease import Lease
from wsi_pipeline.run.ledger import SlideRow
from wsi_pipeline.run.status import Rate, reasons_of, status_of

WHY = "is no readable TIFF. Copy it again."

ROWS = [
    SlideRow("a", "/in/a.svs", state="done", objects=10, tiles=4),
    SlideRow("b", "/in/b.svs", state="empty", objects=0, tiles=2),
    SlideRow("c", "/in/c.svs", state="failed", reason=f"/in/c.svs: {WHY}"),
    SlideRow("d", "/in/d.svs", state="failed", reason="Run out: of luck with d.svs"),
    SlideRow("e", "/in/e.svs", state="failed", reason=f"/in/e.svs: {WHY}"),
    SlideRow("f", "/in/f.svs", state="running"),
    SlideRow("g", "/in/g.svs"),
]


def leave(output: Path, rows: Iterable[SlideRow] = ROWS, **snapshots: Counts) -> Path:
    """An output folder; snapshots by the suffix of their file."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "ledger.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    for suffix, counts in snapshots.items():
        shards = int(suffix.rpartition("_")[2] or 1)
        text = json.dumps({"shards": shards, "run": asdict(counts), "before": asdict(Work(50, 1, 9))})
        (output / f".progress{suffix.rstrip('_').replace('_', '-')}.json").write_text(text)
    return output


def test_slides_are_counted_by_state(tmp_path: Path) -> None:
    status = status_of(leave(tmp_path / "out"))
    assert status.states == {"done": 1, "empty": 1, "failed": 3, "running": 1, "pending": 1}
    assert (status.objects, status.tiles, status.alive) == (10, 6, False)
    assert [row.id for row in status.failed] == ["c", "d", "e"]


def test_rate_is_that_of_the_time_a_run_was_alive(tmp_path: Path) -> None:
    run = Counts(total=6, states={"done": 4}, work=Work(1800, 3, 900))
    with Lease(leave(tmp_path / "out", _=run) / ".lease"):
        status = status_of(tmp_path / "out")
    assert status.rate == Rate(slides=6, tiles=0.5)
    assert status.left == 2 * 1800 / 3, "what was found to be finished took no time"


def test_shards_add_up_and_the_slowest_is_waited_for(tmp_path: Path) -> None:
    shards = {
        "_1_of_3": Counts(total=4, states={"done": 2}, work=Work(3600, 2, 0)),
        "_2_of_3": Counts(total=8, states={"done": 2}, work=Work(3600, 2, 0)),
        "_3_of_3": Counts(total=9, states={"done": 9}, work=Work(3600, 9, 0)),
    }
    with Lease(leave(tmp_path / "out", **shards) / ".lease-1-of-3"):
        status = status_of(tmp_path / "out")
    assert status.rate.slides == 4, "the third is through"
    assert status.left == 6 * 1800


def test_shards_of_an_earlier_run_are_over(tmp_path: Path) -> None:
    shots = {
        "_1_of_2": Counts(
            updated=1, total=8, states={"done": 4}, work=Work(3600, 4, 0), running={"f": At("segment", 1, 2)}
        ),
        "_": Counts(updated=2, total=4, states={"done": 2}, work=Work(3600, 2, 0)),
    }
    with Lease(leave(tmp_path / "out", **shots) / ".lease"):
        status = status_of(tmp_path / "out")
    assert (status.rate.slides, status.left, status.running) == (2, 3600, {})


def test_before_the_first_slide_is_finished_nobody_knows_how_long_it_takes(tmp_path: Path) -> None:
    with Lease(leave(tmp_path / "out", _=Counts(total=6, work=Work(100, 0, 0))) / ".lease"):
        assert status_of(tmp_path / "out").left is None


def test_what_a_run_that_is_gone_was_at_is_not_in_work(tmp_path: Path, tools: Any) -> None:
    run = Counts(total=7, work=Work(100, 1, 0), running={"f": At("segment", 3, 10)})
    output = leave(tmp_path / "out", _=run)
    with Lease(output / ".lease"):
        shown = tools.call_here("status", output).out
        assert "going on" in shown
        assert "3 of 10" in shown
        assert "1 running" in shown
    shown = tools.call_here("status", output).out
    assert "none is going on" in shown
    assert "3 of 10" not in shown
    assert "1 interrupted" in shown


def test_slides_that_failed_of_the_same_are_said_together() -> None:
    failed = [row for row in ROWS if row.state == "failed"]
    groups = [(why, [row.id for row in rows]) for why, rows in reasons_of(failed)]
    assert groups == [(WHY, ["c", "e"]), ("Run out: of luck with …", ["d"])]


def test_a_folder_that_is_none_ends_with_2_and_one_line(tmp_path: Path, tools: Any) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        result = tools.call_here("status", folder)
        assert result.code == 2
        assert str(folder) in result.err
        assert len(result.err.splitlines()) == 1


def test_json_and_list_of_failures_are_for_scripts(tmp_path: Path, tools: Any) -> None:
    output = leave(tmp_path / "out")
    facts = json.loads(tools.call_here("status", output, "--json").out)
    assert facts["states"]["failed"] == len(facts["failed"]) == 3
    lines = tools.call_here("status", output, "--failed").out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["c", "d", "e"]
    assert lines[0].split("\t")[1] == ROWS[2].reason


def test_watching_ends_with_the_run(tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    output, looks = leave(tmp_path / "out"), 3
    lease = Lease(output / ".lease")

    class Clock:
        """The run ends while the third look is waited for."""

        slept = 0

        def sleep(self, seconds: float) -> None:
            self.slept += 1
            if self.slept == looks:
                lease.release()

    clock = Clock()
    monkeypatch.setattr(command, "time", clock)
    shown = tools.call_here("status", output, "--watch")
    assert shown.code == 0
    assert clock.slept == looks
    assert "none is going on" in shown.out


def test_many_slides_do_not_make_it_slow(tmp_path: Path) -> None:
    rows = [SlideRow(f"s{n}", f"/in/s{n}.svs", state="failed", reason=f"/in/s{n}.svs: {WHY}") for n in range(20_000)]
    output = leave(tmp_path / "out", rows)
    done = threading.Event()
    found: list[Any] = []

    def look() -> None:
        found.extend(reasons_of(status_of(output).failed))
        done.set()

    threading.Thread(target=look, daemon=True).start()
    assert done.wait(20), "a step that is quadratic takes minutes"
    assert [(why, len(rows)) for why, rows in found] == [(WHY, 20_000)]


def test_nothing_to_retry_is_no_mistake(tmp_path: Path, tools: Any) -> None:
    output = leave(tmp_path / "out", ROWS[:2])
    _remember(output)
    for words in ((), ("--failed",)):
        assert tools.call_here("retry", output, *words).code == 0


@pytest.mark.parametrize("facts", [{}, {"workflow": {"name": "nuclei"}}, {"workflow": {}, "asked": None}])
def test_where_nobody_knows_what_was_asked_for_run_is_named(tmp_path: Path, tools: Any, facts: dict) -> None:
    output = leave(tmp_path / "out")
    (output / "run.json").write_text(json.dumps(facts))
    result = tools.call_here("retry", output)
    assert result.code == 2
    assert "wsi-pipeline run" in result.err
    assert len(result.err.splitlines()) == 1


def _remember(output: Path) -> None:
    from wsi_pipeline.workflow import load_workflow

    asked = {"slides": ["/in"], "prompts": None, "mpp": None, "roi": None}
    workflow = load_workflow("tissue").model_dump(mode="json", by_alias=True)
    (output / "run.json").write_text(json.dumps({"workflow": workflow, "asked": asked, "threads": 1}))


@pytest.mark.slow
def test_retry_does_what_failed_as_it_was_asked_for(tools: Any, cluster: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tools.write_tiff(tmp_path / "in" / f"{name}.tif", tools.stained(600, 500, 60))
    whole = (tmp_path / "in" / "b.tif").read_bytes()
    (tmp_path / "in" / "b.tif").write_bytes(whole[:100])
    output, settings = tmp_path / "out", tools.arguments(tools.threshold)
    words = "--roi", "0,0,400,400", "--mpp", "0.25", "--cluster", cluster, *settings
    assert tools.call_here("run", tmp_path / "in", "-w", "nuclei", "-o", output, *words).code == 3
    before, asked = tools.contents(output / "a"), json.loads((output / "run.json").read_text())
    written = (output / "a" / "slide.json").stat().st_mtime_ns

    assert tools.call_here("retry", output, "--failed", "--cluster", cluster).code == 3
    (tmp_path / "in" / "b.tif").write_bytes(whole)
    result = tools.call_here("retry", output, "--failed", "--cluster", cluster)
    assert result.code == 0, result.err
    assert set(result.slides()) == {"b"}
    assert json.loads((output / "b" / "slide.json").read_text())["mpp"] == [0.25, 0.25]
    now = json.loads((output / "run.json").read_text())
    assert [now[key] for key in ("workflow", "asked", "threads")] == [
        asked[key] for key in ("workflow", "asked", "threads")
    ]
    assert tools.contents(output / "a") == before
    again = tools.call_here("run", tmp_path / "in", "-w", "nuclei", "-o", output, *words)
    assert {event["reason"] for event in again.slides().values()} == {"finished by an earlier run"}
    assert (output / "a" / "slide.json").stat().st_mtime_ns == written
