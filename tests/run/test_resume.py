"""Whatever happens to a run, its result is the same, and what was finished is not computed again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

KILLS = 10


def test_killed_ten_times_and_resumed_gives_the_same_bytes(
    tools: Any, runs: Any, words: Any, start: Any, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder = output / "ovals"
    command = words(output, "--workers", 2, "--keep-scratch")
    dice = random.Random(4)
    kept: dict[Path, tuple[int, int]] = {}
    for number, target in enumerate(sorted(dice.sample(range(runs.tasks - 8), KILLS))):
        running = start(command)
        running.wait_for(lambda target=target: len(runs.finished(output)) >= target)
        time.sleep(dice.uniform(0, 0.2))
        assert running.process.poll() is None, "it ended before it could be killed"
        running.kill(coordinator_only=number % 2 == 1)
        assert not (folder / "slide.json").exists()
        assert runs.state(output) in ("pending", "running") if folder.exists() else True
        for _, batch in runs.finished(output, "segment"):
            path = folder / ".scratch" / "objects" / f"{batch:06d}.arrow"
            kept.setdefault(path, (path.stat().st_ino, path.stat().st_mtime_ns))
    done_before = {
        stage: len(runs.finished(output, stage)) for stage in ("segment", "seams", "stitch", "trace", "outline")
    }
    assert len(kept) == runs.batches
    last = tools.call(*command)
    assert last.code == 0, last.err
    assert tools.contents(folder) == undisturbed
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept
    counts = json.loads((folder / "slide.json").read_text())["tasks"]
    for stage, before in done_before.items():
        assert counts[stage]["reused"] >= before
        assert counts[stage]["computed"] + counts[stage]["reused"] == counts[stage]["tasks"]
    assert counts["segment"]["computed"] == 0
    assert sum(done_before.values()) > 30
    assert runs.leftovers(output) == []


@pytest.mark.parametrize("workers", [2, 4])
def test_number_of_workers_changes_no_byte(
    tools: Any, words: Any, undisturbed: dict[str, str], tmp_path: Path, workers: int
) -> None:
    done = tools.call(*words(tmp_path / "out", "--workers", workers, export__overview=False))
    assert done.code == 0, done.err
    assert tools.contents(tmp_path / "out" / "ovals") == undisturbed


def test_worker_that_dies_is_replaced(
    tools: Any, runs: Any, words: Any, start: Any, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    running = start(words(output, "--workers", 2, export__overview=False))
    running.wait_for(lambda: len(runs.finished(output, "segment")) >= 2)
    first = running.workers()
    assert len(first) == 2
    first[0].kill()
    running.wait_for(lambda: len(set(running.workers()) - set(first)) == 1)
    assert running.process.wait(timeout=240) == 0, running.log.read_text()
    assert tools.contents(output / "ovals") == undisturbed
    assert all(json.loads(line) for line in running.log.read_text().splitlines())


def test_ctrl_c_stops_cleanly_and_the_run_goes_on(
    tools: Any, runs: Any, words: Any, start: Any, cluster: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    running = start(words(output, "--workers", 2))
    running.wait_for(lambda: len(runs.finished(output, "segment")) >= 2)
    children = running.children()
    os.killpg(running.process.pid, signal.SIGINT)  # a terminal tells the whole group
    assert running.process.wait(timeout=60) == 130
    last = [json.loads(line) for line in running.log.read_text().splitlines()][-1]
    assert last["message"] == "stopped; run the same command again to go on"
    runs.assert_gone(children, seconds=5)
    assert runs.state(output) == "pending"
    before = len(runs.finished(output, "segment"))
    done = tools.call_here(*words(output, "--cluster", cluster))
    assert done.code == 0, done.err
    assert tools.contents(output / "ovals") == undisturbed
    assert json.loads((output / "ovals" / "slide.json").read_text())["tasks"]["segment"]["reused"] >= before


def test_size_of_batches_changes_no_byte_even_on_workers_that_knew_another(
    tools: Any, words: Any, cluster: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    for batch in (1, 16, 4):  # in one folder: what workers keep of the run before must not count
        done = tools.call_here(*words(tmp_path / "out", "--cluster", cluster, tiling__batch=batch))
        assert done.code == 0, done.err
        assert tools.contents(tmp_path / "out" / "ovals") == undisturbed


def test_size_of_shards_changes_no_object(
    tools: Any, runs: Any, words: Any, cluster: str, undisturbed_folder: Path, tmp_path: Path
) -> None:
    done = tools.call_here(*words(tmp_path / "out", "--cluster", cluster, stitch__shard=1024))
    assert done.code == 0, done.err
    assert runs.features(tmp_path / "out" / "ovals") == runs.features(undisturbed_folder)


def test_finished_folder_is_left_alone_until_the_settings_change(
    tools: Any, words: Any, cluster: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder = output / "ovals"
    assert tools.call_here(*words(output, "--cluster", cluster)).code == 0
    (folder / "my-notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    again = tools.call_here(*words(output, "--cluster", cluster))
    assert again.code == 0
    assert again.slides()["ovals"] | {"time": 0} == {
        "time": 0,
        "event": "slide",
        "slide": "ovals",
        "state": "done",
        "reason": "finished by an earlier run",
    }
    assert not [event for event in again.events if event["event"] == "stage"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    changed = tools.call_here(*words(output, "--cluster", cluster, export__gzip=True))
    assert changed.code == 0
    said = [event["message"] for event in changed.events if event["event"] == "message"]
    assert said == ["ovals: the slide, settings or weights changed since; it is done anew"]
    assert (folder / "annotations.geojson.gz").exists()
    assert not (folder / "annotations.geojson").exists(), "a result of the old settings was left"
    assert (folder / "my-notes.txt").read_text() == "mine"


def test_results_that_were_removed_are_made_again(
    tools: Any, runs: Any, words: Any, cluster: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder = output / "ovals"
    command = words(output, "--cluster", cluster, "--keep-scratch", export__overview=False)
    assert tools.call_here(*command).code == 0
    for lost in ("masks.ome.zarr", ".scratch"):
        (folder / "slide.json").unlink()
        (folder / lost).rename(tmp_path / lost)
        done = tools.call_here(*command)
        assert done.code == 0, done.err
        assert tools.contents(folder) == undisturbed
        counts = json.loads((folder / "slide.json").read_text())["tasks"]
        assert counts["segment"]["reused"] == (runs.batches if lost == "masks.ome.zarr" else 0)
