"""An archive on a real SLURM: whatever ends the jobs, the result is that of a local run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SLIDES = ("a", "b")

PROFILE = {
    "cores": 1,
    "memory": "1GB",
    "walltime": "10min",
    "lifetime_margin": "1min",
    "stagger": "2s",
    "death_timeout": "10s",
    "interval": "1s",
    "workers": 2,
}


@pytest.fixture(scope="module")
def slides(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate(SLIDES):
        tools.write_tiff(folder / f"{name}.tif", tools.stained(900, 700, 100, seed))
    return folder


@pytest.fixture(scope="module")
def words(tools: Any, slides: Path) -> Callable[..., list[str]]:
    """The run command; only the output folder and the cluster differ."""
    cut = {"tiling.batch": 2, "stitch.chunk": 256, "stitch.shard": 512, "export.overview": False}

    def build(output: Path, *more: object) -> list[str]:
        settings = tools.arguments(tools.threshold | cut)
        return ["run", str(slides), "-w", "nuclei", "-o", str(output), *map(str, more), *settings]

    return build


@pytest.fixture(scope="module")
def local(tools: Any, words: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Digests of a run without a cluster."""
    output = tmp_path_factory.mktemp("local")
    done = tools.call(*words(output, "--workers", 2))
    assert done.code == 0, done.err
    return digests(tools, output)


def digests(tools: Any, output: Path) -> dict[str, dict[str, str]]:
    return {name: tools.contents(output / name) for name in SLIDES}


def states() -> dict[str, str]:
    """The state of each job there is, and was until SLURM forgets it, by its number."""
    listed = subprocess.run(
        ["squeue", "--states=all", "--noheader", "--format=%i %T"], capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in listed.stdout.splitlines())


@pytest.fixture
def seen(slurm: None) -> Callable[[], Counter[str]]:
    """Tells what became of the jobs of this test; those of earlier ones may be forgotten meanwhile."""
    before = states().keys()
    return lambda: Counter(state for job, state in states().items() if job not in before)


class Running:
    """A run on the cluster under way."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def first_message(self) -> str:
        self.wait_for(lambda: bool(self.messages()))
        return self.messages()[0]

    def messages(self) -> list[str]:
        return [event["message"] for event in self.events() if event["event"] == "message"]

    def finish(self) -> None:
        assert self.process.wait(timeout=240) == 0, self.log.read_text()

    def segmented(self) -> int:
        """Finished tasks of the segment stage."""
        done = {(event["slide"], event["done"]) for event in self.events() if event.get("stage") == "segment"}
        return len([number for _, number in done if number])


@pytest.fixture
def start(tools: Any, words: Any, slurm: None, tmp_path: Path) -> Callable[..., Any]:
    @contextmanager
    def run(delay: float, **profile: Any) -> Iterator[Running]:
        file, log = tmp_path / "cluster.yaml", tmp_path / "log"
        file.write_text(yaml.safe_dump({"slurm": PROFILE | {"folder": str(tmp_path / "jobs")} | profile}))
        environment = {"PYTHONPATH": str(tools.plugin), "THRESHOLD_MODEL_DELAY": str(delay)}
        options = ("--cluster", "slurm", "--cluster-profile", file)
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*tools.command, *words(tmp_path / "out", *options)], env=os.environ | environment, stderr=stderr
            )
        try:
            yield Running(process, log)
        finally:
            process.terminate()
            process.wait()

    return run


def no_job_is_left() -> bool:
    return not {"PENDING", "RUNNING"} & set(states().values())


def test_archive_runs_in_jobs(tools: Any, start: Any, local: Any, tmp_path: Path, seen: Any) -> None:
    with start(0) as running:
        running.finish()
    assert digests(tools, tmp_path / "out") == local
    assert seen().total() == 2
    assert no_job_is_left()
    assert [path.suffix for path in (tmp_path / "jobs").rglob("*") if path.suffix in (".pem", ".key")] == []
    assert "slurm: 2 jobs submitted" in running.first_message()


def test_jobs_that_are_cancelled_are_replaced(tools: Any, start: Any, local: Any, tmp_path: Path, seen: Any) -> None:
    with start(0.2) as running:
        running.wait_for(lambda: running.segmented() >= 2)
        subprocess.run(["scancel", "--me", "--state=RUNNING"], check=True)
        running.finish()
    assert digests(tools, tmp_path / "out") == local
    assert seen().total() >= 4
    assert no_job_is_left()


def test_workers_hand_over_before_their_time_is_up(
    tools: Any, start: Any, local: Any, tmp_path: Path, seen: Any
) -> None:
    wanted = {"minimum": 1, "maximum": 2}
    # so slow that a fast machine, too, needs longer than the ten seconds of a worker
    with start(1.2, walltime="1min", lifetime_margin="50s", workers=wanted) as running:
        running.finish()
    assert digests(tools, tmp_path / "out") == local
    assert seen()["COMPLETED"] >= 2
    assert seen()["TIMEOUT"] == 0
    assert no_job_is_left()


def test_more_to_do_means_more_jobs_and_a_stop_cancels_them(start: Any, seen: Any) -> None:
    with start(1, workers={"minimum": 1, "maximum": 3}) as running:
        assert "slurm: 1 job submitted" in running.first_message()
        running.wait_for(lambda: seen()["RUNNING"] == 3)
        running.process.terminate()
        assert running.process.wait(timeout=60) == 130
    assert no_job_is_left()


def test_jobs_that_reach_their_walltime_are_replaced(
    tools: Any, start: Any, local: Any, tmp_path: Path, seen: Any
) -> None:
    with start(3, walltime="1min", lifetime_margin="1s", stagger="0.1s") as running:
        running.wait_for(lambda: seen()["TIMEOUT"] >= 1, 180)
        running.finish()
    assert digests(tools, tmp_path / "out") == local
    assert seen().total() > 2
    assert no_job_is_left()


def test_coordinator_that_is_killed_leaves_no_job(start: Any, tmp_path: Path) -> None:
    with start(1) as running:
        running.wait_for(lambda: running.segmented() >= 1)
        running.process.kill()
        running.process.wait()
        end = time.monotonic() + 60
        while not no_job_is_left():
            assert time.monotonic() < end
            time.sleep(0.5)
