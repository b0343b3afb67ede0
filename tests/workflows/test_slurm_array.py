"""The job array: shards of one archive, stopped before their time is up and queued again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "workflows" / "slurm" / "array.sbatch"

RUN = """#!/bin/sh
trap 'exit 130' TERM
echo "$@" >> calls
while ! [ -e finish ]; do sleep 0.02; done
exit 3
"""
"""Stands for ``wsi-pipeline``: ends cleanly when it is told to, and with failed slides when it is let."""


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the script as the second of three tasks, with commands that only leave what they were told."""
    for name, text in {"wsi-pipeline": RUN, "scontrol": '#!/bin/sh\necho "$@" >> requeued\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    facts = {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "2", "ARRAY_TASK_COUNT": "3", "CPUS_PER_TASK": "4"}
    names = {f"SLURM_{name}": value for name, value in facts.items()}
    environment = os.environ | names | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def start(*words: str) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(["bash", str(SCRIPT), *words], cwd=tmp_path, env=environment)
        wait_for(lambda: (tmp_path / "calls").exists())
        return started

    return start


def test_linter_finds_nothing_in_the_script() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("ShellCheck is not installed")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_task_runs_its_shard_and_passes_on_how_it_ended(task: Any, tmp_path: Path) -> None:
    started = task("some slides", "--workflow", "tissue")
    (tmp_path / "finish").touch()
    assert started.wait(20) == 3
    assert (tmp_path / "calls").read_text() == "run --shard 2/3 --workers 4 some slides --workflow tissue\n"
    assert not (tmp_path / "requeued").exists()


def test_task_out_of_time_stops_its_run_and_is_queued_again_alone(task: Any, tmp_path: Path) -> None:
    started = task("archive")
    started.send_signal(signal.SIGUSR1)
    assert started.wait(20) == 130
    assert (tmp_path / "requeued").read_text() == "requeue 7_2\n"


def test_cancelled_task_outlives_its_run_and_is_not_queued_again(task: Any, tmp_path: Path) -> None:
    started = task("archive")
    started.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        started.wait(0.5)
    (tmp_path / "finish").touch()
    assert started.wait(20) == 3
    assert not (tmp_path / "requeued").exists()


@pytest.mark.slow
@pytest.mark.slurm
def test_array_goes_on_after_a_requeue_to_the_same_bytes(
    tools: Any,
    slurm: None,
    archive: Path,
    options: list[str],
    expected: Any,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    environment = environment | {"SLURM_CONF": os.environ["SLURM_CONF"], "THRESHOLD_MODEL_DELAY": "0.2"}

    def ask(*words: str) -> str:
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    asked = ["--array=1-2", "--cpus-per-task=1", "--mem=100M", "--time=10", "--parsable"]
    job = ask("sbatch", *asked, str(SCRIPT), str(archive), "--output", "out", *options).strip()
    wait_for(lambda: any((tmp_path / "out").glob("a/.scratch/*")))
    # what SLURM itself does shortly before a job's time is up, but counts in minutes
    ask("scancel", "--signal=USR1", "--batch", f"{job}_1")
    wait_for(lambda: "Restarts=1" in ask("scontrol", "show", "job", f"{job}_1"))

    def states() -> list[str]:
        return re.findall(r"JobState=(\w+)", ask("scontrol", "show", "job", job))

    wait_for(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & set(states()))
    logs = [path.read_text() for path in sorted(tmp_path.glob("*.log"))]
    assert states() == ["COMPLETED", "COMPLETED"], logs
    assert {name: tools.contents(tmp_path / "out" / name) for name in expected} == expected
    assert "run the same command again to go on" in (tmp_path / f"wsi-pipeline-{job}-1.log").read_text()


def wait_for(ready: Callable[[], bool], *, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.1)
