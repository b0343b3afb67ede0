"""One run over slides without pixels, and what it took."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from benchmarks.archive_scale.nulls import Shape, touch_slides, without_pixels
from wsi_pipeline.cluster import local
from wsi_pipeline.cluster.worker import READ_AHEAD_THREADS
from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.run.archive import RunOptions, run_archive
from wsi_pipeline.run.folder import slides_in
from wsi_pipeline.run.ledger import Ledger
from wsi_pipeline.run.progress import Everybody, JsonLines
from wsi_pipeline.run.report import write_report
from wsi_pipeline.workflow import load_workflow

LOOK_SECONDS = 0.5
"""Between two looks at the scheduler."""


@dataclass(frozen=True, slots=True)
class Driven:
    """What a run took.

    Attributes:
        slides, workers, threads: of the run; threads are those of all workers together.
        tasks, tiles: of all slides.
        wall: seconds from the first slide's start to the last one's end.
        cpu: seconds of the coordinator's process meanwhile, the scheduler's part included.
        asleep: seconds that tasks slept, all together.
        held: most tasks that the scheduler knew at a time.
        memory: percent of the slides finished → resident bytes of the coordinator's process then.
        ledger: bytes of the ledger at the end.
        opening: seconds to open it again.
        report: seconds to write the report.
    """

    slides: int
    workers: int
    threads: int
    tasks: int
    tiles: int
    wall: float
    cpu: float
    asleep: float
    held: int
    memory: dict[int, int]
    ledger: int
    opening: float
    report: float


def drive(slides: int, shape: Shape, workers: int, *, threads: int = READ_AHEAD_THREADS) -> Driven:
    """Run ``slides`` slides of ``shape`` on a local cluster.

    Args:
        slides: how many.
        shape: of each.
        workers: processes.
        threads: of each process; more than a run has stand for more workers than this machine can hold.

    Raises:
        WsiPipelineError: they did not all end well.
    """
    with tempfile.TemporaryDirectory() as folder, patch.object(local, "READ_AHEAD_THREADS", threads):
        return _drive(Path(folder), slides, shape, workers, workers * threads)


def _drive(folder: Path, slides: int, shape: Shape, workers: int, threads: int) -> Driven:
    archive, output = folder / "archive", folder / "out"
    touch_slides(archive, slides)
    watch = Watch()
    with (folder / "log.jsonl").open("w", encoding="utf-8") as log, without_pixels(shape), watch.scheduler():
        told = Everybody([JsonLines(log), watch])
        code = run_archive([archive], load_workflow("tissue"), RunOptions(output, workers=workers), told)
    if code:
        raise WsiPipelineError(f"ended with {code}", where=output, fix="See its log")
    ledger = output / "ledger.jsonl"
    size, began = ledger.stat().st_size, time.perf_counter()
    Ledger(ledger).close()
    opened = time.perf_counter()
    write_report(output, slides_in(output))
    return Driven(
        slides=slides,
        workers=workers,
        threads=threads,
        tasks=watch.tasks,
        tiles=slides * shape.tiles,
        wall=watch.ended - watch.began,
        cpu=watch.cpu,
        asleep=slides * shape.batches * shape.seconds,
        held=watch.held,
        memory=watch.memory,
        ledger=size,
        opening=opened - began,
        report=time.perf_counter() - opened,
    )


class Watch:
    """A ``Reporter`` that looks at the clock, at this process's memory and at the scheduler."""

    def __init__(self) -> None:
        self.began = self.ended = self.cpu = self._before = 0.0
        self.tasks = self.held = self._total = self._done = 0
        self.memory: dict[int, int] = {}
        self._process = psutil.Process(os.getpid())

    def slides(self, total: int) -> None:
        self._total = total

    def start(self, slide_id: str, stage: str, done: int, total: int) -> None:
        if not self.began:
            self.began, self._before = time.perf_counter(), time.process_time()

    def advance(self, slide_id: str, stage: str) -> None:
        self.tasks += 1

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        self._done += 1
        for percent in (1, 10, 50, 100):
            if self._done == max(1, self._total * percent // 100):
                self.memory[percent] = self._process.memory_info().rss
        self.ended, self.cpu = time.perf_counter(), time.process_time() - self._before

    def say(self, message: str, **facts: Any) -> None: ...
    def close(self) -> None: ...

    @contextmanager
    def scheduler(self) -> Iterator[None]:
        """Ask the scheduler now and then how many tasks it holds."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(LOOK_SECONDS):
                self.held = max(self.held, _tasks_held())

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _tasks_held() -> int:
    from distributed import default_client

    def count(dask_scheduler: Any) -> int:
        return len(dask_scheduler.tasks)

    try:
        return int(default_client().run_on_scheduler(count))
    except Exception:  # there is no cluster yet, or none any more
        return 0
