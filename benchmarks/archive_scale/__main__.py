"""The command line of the benchmark."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks import archive_scale
from benchmarks.archive_scale.driving import Driven, drive
from benchmarks.archive_scale.nulls import Shape
from benchmarks.archive_scale.page import render
from benchmarks.pages import leave, page_parser

SLIDES, TILES = 10_000, 5_000
"""The archive that is asked about."""

WORKERS = (1, 2, 4)
MANY_THREADS = 64
"""Threads of a process that stands for many workers: of two such, as many as of 64 workers."""

FEW = 4
"""Slides of ``TILES`` tiles in the runs that are about tasks."""

WHOLE = Shape(TILES, batch=256, shard=8192)
"""What the slides of a whole archive look like: with a workflow's own batches and shards it would take hours."""

SLEEPERS, SLEEPING = 4, Shape(tiles=320, seconds=0.5)
"""Slides for each worker, and their shape, in the runs whose tasks take as long as real ones."""


def main() -> None:
    parser = page_parser(archive_scale.__doc__)
    parser.add_argument("--slides", type=int, default=SLIDES, help="of the runs that are about slides")
    parser.add_argument("--whole", action="store_true", help=f"also run as many slides of {TILES} tiles: an hour")
    given = parser.parse_args()
    # an hour's runs are not repeated for the sake of the last one
    found: dict[str, Any] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for name, run in runs(given.slides, whole=given.whole):
        if name not in found:
            found[name] = asdict(told(name, run()))
    found |= {
        "tiles": TILES,
        "tasks": Shape(TILES).tasks,
        "batch": WHOLE.batch,
        "shard": WHOLE.shard,
        "cores": len(os.sched_getaffinity(0)),
    }
    leave(found, render(found), json_file=given.json, page_file=given.write)


def runs(slides: int, *, whole: bool) -> Iterator[tuple[str, Callable[[], Driven]]]:
    """Every run of the benchmark, by its name."""
    yield "slides", partial(drive, slides, Shape(0), 2)
    for workers in WORKERS:
        yield f"at once, {workers}", partial(drive, FEW, Shape(TILES), workers)
    yield "at once, many", partial(drive, 2 * FEW, Shape(TILES), 2, threads=MANY_THREADS)
    for workers in WORKERS:
        yield f"asleep, {workers}", partial(drive, SLEEPERS * workers, SLEEPING, workers)
    if whole:
        yield "whole", partial(drive, slides, WHOLE, 2, threads=MANY_THREADS)


def told(name: str, driven: Driven) -> Driven:
    """Say how far the benchmark is."""
    print(f"{name}: {driven}", file=sys.stderr, flush=True)
    return driven


if __name__ == "__main__":
    main()
