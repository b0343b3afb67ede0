"""Snakemake runs the shards of an archive; what it kills or fails goes on where it was."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

pytest.importorskip("snakemake", reason="Snakemake is not installed")
pytestmark = pytest.mark.slow

SNAKEFILE = Path(__file__).parents[2] / "workflows" / "snakemake" / "Snakefile"


@pytest.fixture
def words(options: list[str], tmp_path: Path) -> Callable[..., list[str]]:
    """Snakemake's command for an archive in two shards, in a folder of its own."""

    def build(slides: Path, *more: str) -> list[str]:
        config = {"slides": str(slides), "output": "out", "shards": 2, "threads": 1, "options": options}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(tmp_path)]
        return [*snakemake, "--cores", "2", "--configfile", str(tmp_path / "mine.yaml"), *more]

    return build


def marks(folder: Path) -> set[str]:
    """The shards that Snakemake holds to be finished."""
    return {mark.stem for mark in (folder / "out" / ".shards").glob("*.done")}


def test_killed_run_goes_on_to_the_same_bytes(
    tools: Any, archive: Path, expected: Any, environment: dict[str, str], words: Any, tmp_path: Path
) -> None:
    slow = environment | {"THRESHOLD_MODEL_DELAY": "0.2"}
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(words(archive), env=slow, stdout=log, stderr=log)
    end = time.monotonic() + 240
    while not any((tmp_path / "out").glob("*/.scratch/*")):
        assert running.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.05)
    kill([*psutil.Process(running.pid).children(recursive=True), running])
    assert marks(tmp_path) == set()

    subprocess.run(words(archive, "--unlock"), env=environment, check=True, capture_output=True)
    done = subprocess.run(words(archive), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: tools.contents(tmp_path / "out" / name) for name in expected} == expected
    assert marks(tmp_path) == {"1-of-2", "2-of-2"}
    again = subprocess.run(words(archive, "--dry-run"), env=environment, capture_output=True, text=True)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_bad_slide_fails_its_shard_only_and_is_tried_again(
    tools: Any, archive: Path, expected: Any, environment: dict[str, str], words: Any, tmp_path: Path
) -> None:
    mine = shutil.copytree(archive, tmp_path / "archive")
    (mine / "a.tif").write_bytes(b"no slide")
    failed = subprocess.run(words(mine), env=environment, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "1 failed" in failed.stdout, "the status at the end"
    assert marks(tmp_path) == {"2-of-2"}
    for name in ("b", "c"):
        assert tools.contents(tmp_path / "out" / name) == expected[name]

    shutil.copy(archive / "a.tif", mine / "a.tif")
    mended = subprocess.run(words(mine), env=environment, capture_output=True, text=True)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert tools.contents(tmp_path / "out" / "a") == expected["a"]


def kill(processes: list[Any]) -> None:
    """SIGKILL to all, as when a machine dies."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # some end as soon as their parent does
            process.kill()
    for process in processes:
        process.wait()
