"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import archive_scale
from benchmarks.archive_scale.driving import Driven, drive
from benchmarks.archive_scale.nulls import Shape
from benchmarks.archive_scale.page import render
from benchmarks.pages import leave

SLIDES, TILES = 10_000, 5_000
"""The archive that is asked about."""

WORKERS = (1, 2, 4)
MANY_THREADS = 64
"""Threads of a process that stands for many workers: of two such, as many as of 64 workers."""

FEW = 4
"""Slides of ``TILES`` tiles in the runs that are about tasks."""

SLEEPERS, SLEEPING = 4, Shape(tiles=320, seconds=0.5)
"""Slides for each worker, and their shape, in the runs whose tasks take as long as real ones."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=archive_scale.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=SLIDES, help="of the run that is about slides")
    parser.add_argument("--whole", action="store_true", help=f"give each of them {TILES} tiles, too: takes hours")
    parser.add_argument("--json", type=Path, help="all numbers")
    parser.add_argument("--write", type=Path, help="the page; without it, it is printed")
    given = parser.parse_args()
    shape = Shape(TILES if given.whole else 0)
    found: dict[str, Any] = {name: asdict(driven) for name, driven in runs(given.slides, shape)}
    found |= {"tiles": TILES, "tasks": Shape(TILES).tasks, "cores": len(os.sched_getaffinity(0))}
    leave(found, render(found), json_file=given.json, page_file=given.write)


def runs(slides: int, shape: Shape) -> Iterator[tuple[str, Driven]]:
    """Every run of the benchmark, by its name; the first one is about slides, the others about tasks."""
    yield told("slides", drive(slides, shape, 2))
    for workers in WORKERS:
        yield told(f"at once, {workers}", drive(FEW, Shape(TILES), workers))
    yield told("at once, many", drive(2 * FEW, Shape(TILES), 2, threads=MANY_THREADS))
    for workers in WORKERS:
        yield told(f"asleep, {workers}", drive(SLEEPERS * workers, SLEEPING, workers))


def told(name: str, driven: Driven) -> tuple[str, Driven]:
    """Say how far the benchmark is."""
    print(f"{name}: {driven}", file=sys.stderr, flush=True)
    return name, driven


if __name__ == "__main__":
    main()
