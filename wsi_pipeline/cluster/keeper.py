"""Keeps as many jobs as a run wishes to have, whatever ends them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from wsi_pipeline.cluster.jobs import JobKind
from wsi_pipeline.errors import WsiPipelineError

LONGEST_PAUSE = 15 * 60
"""Seconds between two tries where jobs end at once again and again."""

ABSENT_SECONDS = 180
"""A job whose workers were there and have been gone for so long hangs, or its node does."""


class Queue(Protocol):
    """What the keeper needs of a batch system."""

    def submit(self, kind: JobKind, name: str) -> str: ...
    def unfinished(self) -> set[str] | None: ...
    def cancel(self, jobs: Iterable[str]) -> None: ...
    def last_line(self, job: str) -> str | None: ...


@dataclass(slots=True)
class RunningJob:
    """A job that was submitted and is not known to have ended.

    Attributes:
        name: that of its worker, or the beginning of those of its workers.
        number: what the batch system calls it.
        submitted: when, s.
        seen: when a worker of it was last there, s; None before the first one came.
        leaving: whether it was asked to end.
    """

    name: str
    number: str
    submitted: float
    seen: float | None = None
    leaving: bool = False


@dataclass(slots=True)
class Crew:
    """Jobs of one kind.

    Attributes:
        kind: what they ask for.
        wish: how many there shall be now.
        jobs: those there are.
        failures: looks in a row that found jobs ended of which no worker had been seen.
        next_try: when jobs may be submitted again, s.
    """

    kind: JobKind
    wish: Callable[[], int]
    jobs: list[RunningJob] = field(default_factory=list)
    failures: int = 0
    next_try: float = 0.0


class Keeper:
    """Looks after the jobs of a run from a thread of its own, and cancels them at its end.

    dask-jobqueue submits no job in place of one that reached its lifetime, was cancelled, lost its node or ended
    before its worker came. A job that waits in the queue is not missing.

    Args:
        queue: the batch system.
        crews: the kinds of jobs.
        workers: tells the names of the workers that are there.
        retire: has the workers of the jobs of these names hand over their work and end.
        interval: s between two looks.
        say: takes a line for the user.
        clock: the time in s.
    """

    def __init__(
        self,
        queue: Queue,
        crews: Collection[Crew],
        *,
        workers: Callable[[], Iterable[str]],
        retire: Callable[[Collection[str]], None],
        interval: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue, self._crews = queue, crews
        self._workers, self._retire = workers, retire
        self._interval, self._say, self._clock = interval, say, clock
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="jobs", daemon=True)

    def __enter__(self) -> Keeper:
        """Submit the first jobs.

        Raises:
            WsiPipelineError: the batch system refuses one.
        """
        try:
            for crew in self._crews:
                self._submit(crew, crew.wish())
        except BaseException:
            self._cancel_all()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        try:
            self._thread.join()
        finally:
            self._cancel_all()

    def _look_after(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.look()
            except Exception as error:  # the jobs of a run of weeks are looked after until its end
                self._say(f"the jobs could not be looked after: {error}")

    def look(self) -> None:
        """Compare the jobs there are with those that are wished, once."""
        unfinished = self._queue.unfinished()
        present = {job_of(worker) for worker in self._workers()}
        for crew in self._crews:
            for job in crew.jobs:
                if job.name in present:
                    job.seen, crew.failures = self._clock(), 0
            if unfinished is not None:
                self._drop_ended(crew, unfinished, present)
            self._fit(crew)

    def _drop_ended(self, crew: Crew, unfinished: set[str], present: set[str]) -> None:
        ended = [job for job in crew.jobs if job.name not in present and self._is_over(job, unfinished)]
        if not ended:
            return
        self._queue.cancel(job.number for job in ended)  # held or hanging jobs are over for us, but not gone
        crew.jobs = [job for job in crew.jobs if job not in ended]
        failed = [job for job in ended if job.seen is None and not job.leaving]
        if failed:
            self._back_off(crew, failed)

    def _is_over(self, job: RunningJob, unfinished: set[str]) -> bool:
        now = self._clock()
        if job.number.split(".")[0] not in unfinished:
            # a system may take a moment to list what it just accepted
            return job.seen is not None or now - job.submitted >= self._interval
        return job.seen is not None and now - job.seen > ABSENT_SECONDS

    def _back_off(self, crew: Crew, failed: list[RunningJob]) -> None:
        said = self._queue.last_line(failed[-1].number) or "nothing was printed"
        count = f"{len(failed)} jobs" if len(failed) > 1 else "a job"
        self._pause(crew, f"{count} ended right after the start: {said}")

    def _pause(self, crew: Crew, why: str) -> None:
        crew.failures += 1
        pause = min(self._interval * 2**crew.failures, LONGEST_PAUSE)
        crew.next_try = self._clock() + pause
        self._say(f"{why}; the next try is in {pause:.0f} s")

    def _fit(self, crew: Crew) -> None:
        missing = crew.wish() - sum(not job.leaving for job in crew.jobs)
        if missing < 0:
            self._dismiss(crew, -missing)
        elif missing and self._clock() >= crew.next_try:
            try:
                self._submit(crew, missing)
            except WsiPipelineError as error:
                self._pause(crew, error.what)

    def _submit(self, crew: Crew, count: int) -> None:
        for _ in range(count):
            name = f"{crew.kind.name}-{next(self._numbers)}"
            crew.jobs.append(RunningJob(name, self._queue.submit(crew.kind, name), self._clock()))

    def _dismiss(self, crew: Crew, count: int) -> None:
        """Let go of the youngest jobs, those that wait first."""
        staying = [job for job in crew.jobs if not job.leaving]
        leaving = sorted(staying, key=lambda job: (job.seen is None, job.submitted))[-count:]
        for job in leaving:
            job.leaving = True
        self._queue.cancel(job.number for job in leaving if job.seen is None)
        self._retire([job.name for job in leaving if job.seen is not None])

    def _cancel_all(self) -> None:
        self._queue.cancel(job.number for crew in self._crews for job in crew.jobs)


def job_of(worker: str) -> str:
    """The name of the job that a worker runs in: ``cpu-3`` of ``cpu-3`` and ``cpu-3-1``."""
    return "-".join(worker.split("-")[:2])
