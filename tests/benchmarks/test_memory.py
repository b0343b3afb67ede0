"""A whole run on a small relative of the giant slide of ``benchmarks/memory.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"
SIDE, OBJECTS = 12_000, 16_000


def run(objects: int) -> dict[str, Any]:
    words = ["--json", "--side", SIDE, "--objects", objects, "--capacity", OBJECTS]
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks per stage are kept by Linux only")
def test_ten_times_the_objects_need_hardly_more_memory() -> None:
    few, many = run(OBJECTS // 10), run(OBJECTS)
    for result in (few, many):
        # those that the border of the tissue cuts are asked about only where the grid of questions has a point
        assert result["objects"] == pytest.approx(result["drawn"], rel=0.02)
    assert many["objects"] >= 9 * few["objects"]
    for who in ("coordinator", "worker"):
        assert many["total"][who] < 1.5e9
        assert many["total"][who] <= 1.2 * few["total"][who], f"{who}: {few['stages']} {many['stages']}"
