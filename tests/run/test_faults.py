"""Workers, disks, file systems and clocks fail; a run goes on, and ends with the bytes of one that nothing befell."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.run.lease import BEAT_SECONDS
from wsi_pipeline.run.ledger import read_lines

pytestmark = pytest.mark.slow

FAULTS = Path(__file__).parents[1] / "faults"


@pytest.fixture
def check(tools: Any, runs: Any, undisturbed: dict[str, str]) -> Callable[[Any, Path], None]:
    """Waits for a run to end, and compares what it left with the result of an undisturbed one."""

    def compare(running: Any, output: Path) -> None:
        assert running.process.wait(timeout=240) == 0, running.log.read_text()
        assert all(json.loads(line) for line in running.log.read_text().splitlines())
        assert tools.contents(output / "ovals") == undisturbed
        assert runs.leftovers(output) == []

    return compare


def test_ten_workers_are_killed(words: Any, runs: Any, start: Any, check: Any, tmp_path: Path) -> None:
    output = tmp_path / "out"
    running = start(words(output, "--workers", 2), THRESHOLD_MODEL_DELAY="0.15")
    dice, seen = random.Random(7), set()
    for kills in range(10):
        running.wait_for(lambda: len(set(running.workers()) - seen) >= 1)
        running.wait_for(lambda kills=kills: len(runs.finished(output)) >= 1 + kills // 2)
        victim = dice.choice(sorted(set(running.workers()) - seen, key=lambda worker: worker.pid))
        seen.add(victim)
        time.sleep(dice.uniform(0.2, 0.8))
        victim.kill()
    check(running, output)


def test_worker_that_hangs_is_given_up(words: Any, runs: Any, start: Any, check: Any, tmp_path: Path) -> None:
    output = tmp_path / "out"
    running = start(
        words(output, "--workers", 2), THRESHOLD_MODEL_DELAY="0.1", DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="4s"
    )
    running.wait_for(lambda: len(runs.finished(output, "segment")) >= 2)
    hanging = running.workers()[0]
    os.kill(hanging.pid, signal.SIGSTOP)
    check(running, output)
    runs.assert_gone([hanging])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_that_is_full_is_waited_for(
    words: Any, runs: Any, start: Any, check: Any, small_disk: Path, tmp_path: Path
) -> None:
    output = small_disk / "out"
    running = start(words(output, "--workers", 2, export__overview=False))
    running.wait_for(lambda: len(runs.finished(output, "segment")) >= 2)
    fill(small_disk / "ballast")
    running.wait_for(lambda: running.says("Waiting until it can go on"))
    assert "No space left on device" in running.log.read_text()
    time.sleep(1)
    (small_disk / "ballast").unlink()
    check(running, output)


def fill(path: Path) -> None:
    """Take all the space there is."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_disk_that_stays_full_fails_the_slide_and_the_next_run_goes_on(
    tools: Any, words: Any, runs: Any, start: Any, undisturbed: dict[str, str], small_disk: Path
) -> None:
    output = small_disk / "out"
    command = words(output, "--workers", 2, "--patience", 0, export__overview=False)
    running = start(command)
    running.wait_for(lambda: len(runs.finished(output, "segment")) >= 2)
    fill(small_disk / "ballast")
    assert running.process.wait(timeout=120) == 3
    last = [json.loads(line) for line in running.log.read_text().splitlines()]
    reason = next(event["reason"] for event in last if event["event"] == "slide")
    assert "cannot be written (No space left on device)" in reason
    assert not (output / "ovals" / "slide.json").exists()
    before = len(runs.finished(output, "segment"))
    (small_disk / "ballast").unlink()
    done = tools.call(*command)
    assert done.code == 0, done.err
    assert tools.contents(output / "ovals") == undisturbed
    assert json.loads((output / "ovals" / "slide.json").read_text())["tasks"]["segment"]["reused"] >= before


@pytest.fixture
def faults(tools: Any, tmp_path: Path) -> Iterator[Path]:
    """Folder of ``faults/sitecustomize.py``, by which faults are switched on and off."""
    folder = tmp_path / "faults"
    folder.mkdir()
    yield folder
    (folder / "storage").unlink(missing_ok=True)


def switch(faults: Path, name: str, value: object) -> None:
    (faults / "new").write_text(str(value))
    (faults / "new").rename(faults / name)


def start_faulty(tools: Any, start: Any, words: list[str], faults: Path) -> Any:
    path = os.pathsep.join([str(tools.plugin), str(FAULTS)])
    return start(words, PYTHONPATH=path, FAULTS=str(faults))


@pytest.mark.parametrize("fault", ["stall", "ESTALE", "EIO"])
def test_network_file_system_that_does_not_answer_is_waited_for(
    tools: Any, words: Any, runs: Any, start: Any, check: Any, faults: Path, tmp_path: Path, fault: str
) -> None:
    output = tmp_path / "out"
    running = start_faulty(tools, start, words(output, "--workers", 2, export__overview=False), faults)
    running.wait_for(lambda: len(runs.finished(output, "segment")) >= 2)
    switch(faults, "storage", fault)
    if fault == "stall":
        time.sleep(3)
    else:
        running.wait_for(lambda: running.says("Waiting until it can go on"))
    assert running.process.poll() is None
    (faults / "storage").unlink()
    check(running, output)


def test_clock_that_jumps_is_of_no_account(
    tools: Any, words: Any, runs: Any, start: Any, check: Any, faults: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    running = start_faulty(tools, start, words(output, "--workers", 2, export__overview=False), faults)
    for jump in (86400, -86400, 3e7, 0):
        before = len(runs.finished(output))
        running.wait_for(lambda before=before: len(runs.finished(output)) >= before + 2)
        switch(faults, "clock", jump)
    check(running, output)


def test_damaged_and_lost_intermediate_files_are_made_again(
    tools: Any, words: Any, runs: Any, start: Any, check: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = words(output, "--workers", 2, export__overview=False)
    scratch = output / "ovals" / ".scratch"
    dice, kinds = random.Random(3), set()
    for target in ("segment", "seams", "trace", "outline"):
        running = start(command)
        running.wait_for(lambda target=target: len(runs.finished(output, target)) >= 2)
        running.kill(coordinator_only=False)
        for folder in ("objects", "seams", "outlines", "rows"):
            files = sorted(path for path in (scratch / folder).iterdir() if path.suffix != ".partial")
            for path in dice.sample(files, min(2, len(files))):
                damage(path, dice)
                kinds.add(path.suffix + folder)
    assert kinds == {".arrowobjects", ".arrowseams", ".arrowoutlines", ".parquetrows"}
    check(start(command), output)


def damage(path: Path, dice: random.Random) -> None:
    """Cut a file off, flip one of its bits, or remove it."""
    data = bytearray(path.read_bytes())
    what = dice.choice(["cut", "flip", "lose"])
    if what == "lose":
        path.unlink()
    elif what == "cut":
        path.write_bytes(data[: dice.randrange(len(data))])
    else:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)


def test_ledgers_that_are_cut_off_are_of_no_account(
    words: Any, runs: Any, start: Any, check: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = words(output, "--workers", 2, export__overview=False)
    dice = random.Random(5)
    for target in (4, 20, 40):
        running = start(command)
        running.wait_for(lambda target=target: len(runs.finished(output)) >= target)
        running.kill(coordinator_only=False)
        for path in (output / "ledger.jsonl", output / "ovals" / ".scratch" / "tasks.jsonl", output / "run.json"):
            data = path.read_bytes()
            path.write_bytes(data[: dice.randrange(len(data))])
    (output / "ledger.jsonl").unlink()
    check(start(command), output)


def test_second_coordinator_is_kept_out_and_one_taken_for_dead_gives_way(
    tools: Any, words: Any, runs: Any, start: Any, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = words(output, "--workers", 1, export__overview=False)
    first = start(command)
    first.wait_for(lambda: len(runs.finished(output, "segment")) >= 2)
    # it stands still, or it may be done before the other one has begun
    first.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    second = tools.call(*command)
    assert second.code == 2
    assert "another run is using this folder (process " in second.err
    lease = output / ".lease"
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": "another"}))
    time.sleep(max(0, stopped + BEAT_SECONDS - time.monotonic()))  # it looks at its lease at once
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(timeout=60) == 2
    assert "another run took this folder over" in first.log.read_text().splitlines()[-1]
    lease.unlink()
    done = tools.call(*command)
    assert done.code == 0, done.err
    assert tools.contents(output / "ovals") == undisturbed


def test_memory_that_is_short_is_remembered_for_the_workflow(
    words: Any, runs: Any, start: Any, check: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    running = start(words(output, "--workers", 1, export__overview=False), THRESHOLD_MODEL_FITS="1")
    check(running, output)
    told = [line for line in read_lines(output / "ledger.jsonl") if "fits" in line]
    assert [line["fits"] for line in told] == [1], "it is found out once, not by every task"
