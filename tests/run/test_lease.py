"""One coordinator at a time writes in a folder; one that is gone keeps nobody out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.errors import OutputError
from wsi_pipeline.run import lease as module
from wsi_pipeline.run.lease import Lease, is_held

QUICK = {"beat": 0.05, "stale": 0.6}

HOLDER = """
import sys, time
from pathlib import Path
from wsi_pipeline.run.lease import Lease
lease = Lease(Path(sys.argv[1]), beat=0.05)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lease"


@pytest.fixture
def holder(path: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Starts another process that holds the lease."""
    started: list[subprocess.Popen] = []

    def start() -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def pretend_another_host(path: Path, **changes: Any) -> dict[str, Any]:
    """Have a lease say that it was taken elsewhere, where the process cannot be looked at."""
    facts = json.loads(path.read_text()) if path.exists() else {"token": "x", "beat": 0, "process": 1, "started": 1.0}
    facts |= {"host": "node-17", "machine": "node-17 another"} | changes
    path.write_text(json.dumps(facts))
    return facts


def test_second_run_is_kept_out_with_one_line_that_names_the_first(path: Path, holder: Any) -> None:
    process = holder()
    said: list[str] = []
    started = time.monotonic()
    with pytest.raises(OutputError, match=rf"another run is using this folder \(process {process.pid} on "):
        Lease(path, say=said.append)
    assert time.monotonic() - started < 2, "a process of this machine needs no watching"
    assert said == []
    assert is_held(path)


def test_lease_of_a_process_that_was_killed_is_taken_over_at_once(path: Path, holder: Any) -> None:
    process = holder()
    process.kill()
    process.wait()
    assert not is_held(path)
    started = time.monotonic()
    with Lease(path, **QUICK):
        assert time.monotonic() - started < 2
        assert is_held(path)
    assert list(path.parent.iterdir()) == []


def test_process_of_the_same_number_that_began_later_is_somebody_else(path: Path) -> None:
    with Lease(path):
        facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"started": facts["started"] - 1}))
    assert not is_held(path)
    Lease(path, **QUICK).release()


def test_lease_of_another_host_that_is_renewed_keeps_others_out(path: Path) -> None:
    facts = pretend_another_host(path)
    ended = threading.Event()

    def renew() -> None:
        beat = 0
        while not ended.wait(0.05):
            beat += 1
            path.with_name("new").write_text(json.dumps(facts | {"beat": beat}))
            path.with_name("new").replace(path)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(OutputError, match=r"another run is using this folder \(process 1 on node-17\)"):
            Lease(path, beat=0.5, stale=20)
        assert is_held(path, watch=5)
    finally:
        ended.set()
        thread.join()


def test_abandoned_lease_of_another_host_is_watched_then_taken_over(path: Path) -> None:
    pretend_another_host(path)
    assert not is_held(path, watch=0.3)
    said: list[str] = []
    started = time.monotonic()
    with Lease(path, say=said.append, **QUICK):
        assert time.monotonic() - started >= QUICK["stale"]
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert len(said) == 1
    assert "a run on node-17 left its lease" in said[0]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xff"])
def test_damaged_lease_is_watched_as_an_abandoned_one(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with Lease(path, **QUICK):
        assert is_held(path)


def test_of_many_that_find_a_lease_abandoned_one_gets_it(path: Path) -> None:
    pretend_another_host(path)

    def try_it(_: int) -> Lease | None:
        try:
            return Lease(path, beat=5, stale=0.3)
        except OutputError:
            return None

    with ThreadPoolExecutor(8) as pool:
        got = [lease for lease in pool.map(try_it, range(8)) if lease is not None]
    holding = [lease for lease in got if lease._token == json.loads(path.read_text())["token"]]
    assert len(got) == len(holding) == 1
    for lease in got:
        lease.release()
    assert list(path.parent.iterdir()) == []


def test_who_was_taken_for_dead_is_told(path: Path) -> None:
    lost = threading.Event()
    lease = Lease(path, lost=lost.set, beat=0.05)
    pretend_another_host(path, token="another")
    assert lost.wait(5)
    lease.release()
    assert json.loads(path.read_text())["token"] == "another", "what is another's now is left to it"


def test_clock_that_jumps_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    with Lease(path, lost=lost.set, beat=0.05):
        for jump in (-86400, 86400):
            monkeypatch.setattr(module.time, "time", lambda jump=jump: 1e9 + jump)
            os.utime(path, (1, 1))
            time.sleep(0.15)
            assert is_held(path)
    assert not lost.is_set()


def test_full_disk_does_not_end_a_lease(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    with Lease(path, lost=lost.set, beat=0.02):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
            time.sleep(0.2)
        assert is_held(path)
        before = json.loads(path.read_text())["beat"]
        time.sleep(0.3)
        assert json.loads(path.read_text())["beat"] > before, "it is renewed again when there is space"
    assert not lost.is_set()


def test_stopped_process_of_this_machine_holds_its_lease(path: Path, holder: Any) -> None:
    process = holder()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(OutputError, match="another run is using this folder"):
            Lease(path, **QUICK)
    finally:
        os.kill(process.pid, signal.SIGCONT)
