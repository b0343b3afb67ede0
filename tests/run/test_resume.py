"""Whatever happens to a run, its result is the same, and what was finished is not computed again."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow

BATCHES = 12
TASKS = 56
"""Tasks of the whole run: 12 batches of at most 2 x 2 tiles twice, 9 shards three times, 5 shards of coarser levels."""
KILLS = 10


@pytest.fixture(scope="module")
def slide(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tools.write_tiff(tmp_path_factory.mktemp("slide") / "ovals.tif", tools.stained(1500, 1200, 300))


@pytest.fixture(scope="module")
def words(tools: Any, slide: Path) -> Callable[..., list[str]]:
    """The run command; only the output folder and what is named differ."""

    def build(output: Path, *more: object, **settings: object) -> list[str]:
        settings = {key.replace("__", "."): value for key, value in settings.items()}
        cut = {"tiling.batch": 4, "stitch.chunk": 256, "stitch.shard": 512}
        return [
            *("run", str(slide), "-w", "nuclei", "-o", str(output), *map(str, more)),
            *tools.arguments(tools.threshold | cut | settings),
        ]

    return build


@pytest.fixture(scope="module")
def undisturbed_folder(tools: Any, words: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one worker that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed")
    done = tools.call(*words(output, "--workers", 1))
    assert done.code == 0, done.err
    folder = output / "ovals"
    facts = json.loads((folder / "slide.json").read_text())
    assert 250 < facts["objects"] <= 300
    counts = facts["tasks"]["segment"]
    assert (counts["tasks"], counts["computed"], counts["reused"]) == (BATCHES, BATCHES, 0)
    assert sum(stage["tasks"] for stage in facts["tasks"].values()) == TASKS
    assert not (folder / ".scratch").exists()
    assert leftovers(output) == []
    return folder


@pytest.fixture(scope="module")
def undisturbed(tools: Any, undisturbed_folder: Path) -> dict[str, str]:
    """Its digests."""
    return tools.contents(undisturbed_folder)


def features(folder: Path) -> list[dict[str, Any]]:
    found = json.loads((folder / "annotations.geojson").read_text())["features"]
    return sorted(found, key=lambda feature: feature["id"])


def leftovers(output: Path) -> list[str]:
    return [path.name for path in output.rglob("*.partial*")]


def finished(output: Path, stage: str = "%") -> list[tuple[str, int]]:
    """Finished tasks as the ledger has them, read while the run is writing it."""
    path = output / "ledger.sqlite"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as ledger:
        try:
            return ledger.execute("SELECT stage, number FROM tasks WHERE stage LIKE ?", (stage,)).fetchall()
        except sqlite3.OperationalError:  # the table is not there yet
            return []


def state(output: Path) -> str:
    with closing(sqlite3.connect(output / "ledger.sqlite")) as ledger:
        return ledger.execute("SELECT state FROM slides").fetchone()[0]


def alive(process: psutil.Process) -> bool:
    """Whether it can still do anything; where no init reaps them, killed orphans stay listed."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def assert_gone(processes: list[psutil.Process], *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while (left := [process for process in processes if alive(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


class Running:
    """A run in a process group of its own, as a terminal would start it."""

    def __init__(self, command: list[str], plugin: Path, log: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(plugin), "THRESHOLD_MODEL_DELAY": "0.05"}
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stderr=stderr,
                start_new_session=True,
                # what a shell started in the background ignores Ctrl-C, and so would all it starts
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def wait_for(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + 240
        while not ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def workers(self) -> list[psutil.Process]:
        """Worker processes, without Python's own helpers."""
        return [child for child in self.children() if any("spawn_main" in word for word in child.cmdline())]

    def children(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if alive(child)]

    def kill(self, *, coordinator_only: bool) -> None:
        """SIGKILL; every process has to be gone soon, whether it was killed or left alone."""
        children = self.children()
        if coordinator_only:
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert_gone(children)


@pytest.fixture
def start(tools: Any, tmp_path: Path) -> Iterator[Callable[[list[str]], Running]]:
    started: list[Running] = []

    def run(words: list[str]) -> Running:
        started.append(Running([*tools.command, *words], tools.plugin, tmp_path / f"{len(started)}.log"))
        return started[-1]

    yield run
    for running in started:
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


def test_killed_ten_times_and_resumed_gives_the_same_bytes(
    tools: Any, words: Any, start: Any, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder = output / "ovals"
    command = words(output, "--workers", 2, "--keep-scratch")
    dice = random.Random(4)
    kept: dict[Path, tuple[int, int]] = {}
    for number, target in enumerate(sorted(dice.sample(range(TASKS - 8), KILLS))):
        running = start(command)
        running.wait_for(lambda target=target: len(finished(output)) >= target)
        time.sleep(dice.uniform(0, 0.2))
        assert running.process.poll() is None, "it ended before it could be killed"
        running.kill(coordinator_only=number % 2 == 1)
        assert not (folder / "slide.json").exists()
        assert state(output) in ("pending", "running") if folder.exists() else True
        for _, batch in finished(output, "segment"):
            path = folder / ".scratch" / "objects" / f"{batch:06d}.arrow"
            kept.setdefault(path, (path.stat().st_ino, path.stat().st_mtime_ns))
    done_before = {stage: len(finished(output, stage)) for stage in ("segment", "seams", "stitch", "trace", "outline")}
    assert len(kept) == BATCHES
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
    assert leftovers(output) == []


@pytest.mark.parametrize("workers", [2, 4])
def test_number_of_workers_changes_no_byte(
    tools: Any, words: Any, undisturbed: dict[str, str], tmp_path: Path, workers: int
) -> None:
    done = tools.call(*words(tmp_path / "out", "--workers", workers, export__overview=False))
    assert done.code == 0, done.err
    assert tools.contents(tmp_path / "out" / "ovals") == undisturbed


def test_worker_that_dies_is_replaced(
    tools: Any, words: Any, start: Any, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    running = start(words(output, "--workers", 2, export__overview=False))
    running.wait_for(lambda: len(finished(output, "segment")) >= 2)
    first = running.workers()
    assert len(first) == 2
    first[0].kill()
    running.wait_for(lambda: len(set(running.workers()) - set(first)) == 1)
    assert running.process.wait(timeout=240) == 0, running.log.read_text()
    assert tools.contents(output / "ovals") == undisturbed
    assert all(json.loads(line) for line in running.log.read_text().splitlines())


def test_ctrl_c_stops_cleanly_and_the_run_goes_on(
    tools: Any, words: Any, start: Any, cluster: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    running = start(words(output, "--workers", 2))
    running.wait_for(lambda: len(finished(output, "segment")) >= 2)
    children = running.children()
    os.killpg(running.process.pid, signal.SIGINT)  # a terminal tells the whole group
    assert running.process.wait(timeout=60) == 130
    last = [json.loads(line) for line in running.log.read_text().splitlines()][-1]
    assert last["message"] == "stopped; run the same command again to go on"
    assert_gone(children, seconds=5)
    assert state(output) == "pending"
    before = len(finished(output, "segment"))
    done = tools.call_here(*words(output, "--scheduler", cluster))
    assert done.code == 0, done.err
    assert tools.contents(output / "ovals") == undisturbed
    assert json.loads((output / "ovals" / "slide.json").read_text())["tasks"]["segment"]["reused"] >= before


def test_size_of_batches_changes_no_byte_even_on_workers_that_knew_another(
    tools: Any, words: Any, cluster: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    for batch in (1, 16, 4):  # in one folder: what workers keep of the run before must not count
        done = tools.call_here(*words(tmp_path / "out", "--scheduler", cluster, tiling__batch=batch))
        assert done.code == 0, done.err
        assert tools.contents(tmp_path / "out" / "ovals") == undisturbed


def test_size_of_shards_changes_no_object(
    tools: Any, words: Any, cluster: str, undisturbed_folder: Path, tmp_path: Path
) -> None:
    done = tools.call_here(*words(tmp_path / "out", "--scheduler", cluster, stitch__shard=1024))
    assert done.code == 0, done.err
    assert features(tmp_path / "out" / "ovals") == features(undisturbed_folder)


def test_finished_folder_is_left_alone_until_the_settings_change(
    tools: Any, words: Any, cluster: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder = output / "ovals"
    assert tools.call_here(*words(output, "--scheduler", cluster)).code == 0
    (folder / "my-notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    again = tools.call_here(*words(output, "--scheduler", cluster))
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

    changed = tools.call_here(*words(output, "--scheduler", cluster, export__gzip=True))
    assert changed.code == 0
    said = [event["message"] for event in changed.events if event["event"] == "message"]
    assert said == ["ovals: the slide, settings or weights changed since; it is done anew"]
    assert (folder / "annotations.geojson.gz").exists()
    assert not (folder / "annotations.geojson").exists(), "a result of the old settings was left"
    assert (folder / "my-notes.txt").read_text() == "mine"


def test_results_that_were_removed_are_made_again(
    tools: Any, words: Any, cluster: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder = output / "ovals"
    command = words(output, "--scheduler", cluster, "--keep-scratch", export__overview=False)
    assert tools.call_here(*command).code == 0
    for lost in ("masks.ome.zarr", ".scratch"):
        (folder / "slide.json").unlink()
        (folder / lost).rename(tmp_path / lost)
        done = tools.call_here(*command)
        assert done.code == 0, done.err
        assert tools.contents(folder) == undisturbed
        counts = json.loads((folder / "slide.json").read_text())["tasks"]
        assert counts["segment"]["reused"] == (BATCHES if lost == "masks.ome.zarr" else 0)
