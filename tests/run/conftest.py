"""A run that things happen to, and what it leaves when nothing does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from wsi_pipeline.run.ledger import read_ledger, read_lines

BATCHES = 12
TASKS = 56
"""Tasks of the whole run: 12 batches of at most 2 x 2 tiles twice, 9 shards three times, 5 shards of coarser levels."""


@pytest.fixture(scope="session")
def slide(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tools.write_tiff(tmp_path_factory.mktemp("slide") / "ovals.tif", tools.stained(1500, 1200, 300))


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def undisturbed(tools: Any, undisturbed_folder: Path) -> dict[str, str]:
    """Its digests."""
    return tools.contents(undisturbed_folder)


def features(folder: Path) -> list[dict[str, Any]]:
    found = json.loads((folder / "annotations.geojson").read_text())["features"]
    return sorted(found, key=lambda feature: feature["id"])


def leftovers(output: Path) -> list[str]:
    return [path.name for path in output.rglob("*.partial*")]


def finished(output: Path, stage: str | None = None) -> list[tuple[str, int]]:
    """Finished tasks as the slide's journal has them, read while the run is writing it."""
    entries = read_lines(output / "ovals" / ".scratch" / "tasks.jsonl")
    tasks = {(entry["stage"], entry["number"]) for entry in entries}
    return [task for task in tasks if stage in (None, task[0])]


def state(output: Path) -> str:
    return next(read_ledger(output / "ledger.jsonl")).state


def alive(process: psutil.Process) -> bool:
    """Whether it can still do anything; where no init reaps them, killed orphans stay listed."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def command_line(process: psutil.Process) -> list[str]:
    """Empty if it ended meanwhile."""
    with suppress(psutil.NoSuchProcess):  # a zombie counts as one
        return process.cmdline()
    return []


def assert_gone(processes: list[psutil.Process], *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while (left := [process for process in processes if alive(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


class Running:
    """A run in a process group of its own, as a terminal would start it."""

    def __init__(self, command: list[str], plugin: Path, log: Path, **environment: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(plugin), "THRESHOLD_MODEL_DELAY": "0.05"} | environment
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
        return [child for child in self.children() if any("spawn_main" in word for word in command_line(child))]

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

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
def start(tools: Any, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def run(words: list[str], **environment: str) -> Running:
        log = tmp_path / f"{len(started)}.log"
        started.append(Running([*tools.command, *words], tools.plugin, log, **environment))
        return started[-1]

    yield run
    for running in started:
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """What tests ask of a run and of its folder."""
    return SimpleNamespace(
        batches=BATCHES,
        tasks=TASKS,
        features=features,
        leftovers=leftovers,
        finished=finished,
        state=state,
        assert_gone=assert_gone,
    )
