"""Keeping count of what a run says, and having the counts written down every few seconds."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wsi_pipeline.errors import OutputError

WRITE_SECONDS = 10.0
"""How old written counts may be."""


@dataclass(frozen=True, slots=True)
class Work:
    """What was done in how long: the source of rates.

    Attributes:
        seconds: while a run was alive.
        slides: computed in them to their end, not only found to be there already.
        tiles: patches of their first stage.
    """

    seconds: float = 0.0
    slides: int = 0
    tiles: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.seconds + other.seconds, self.slides + other.slides, self.tiles + other.tiles)


@dataclass(slots=True)
class At:
    """Where a slide in work is: tasks done of its stage."""

    stage: str
    done: int
    total: int


@dataclass(slots=True)
class Counts:
    """What a run said so far.

    Attributes:
        started, updated: seconds since 1970, by the clock of the coordinator's machine.
        total: slides of the run.
        states: how many slides ended as what.
        work: what was computed since ``started``.
        objects: found in it.
        tasks: done, by stage.
        running: slides in work.
    """

    started: float = 0.0
    updated: float = 0.0
    total: int = 0
    states: dict[str, int] = field(default_factory=dict)
    work: Work = Work()
    objects: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    running: dict[str, At] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Slides that have not ended."""
        return self.total - sum(self.states.values())


class Counting:
    """A reporter that counts; it says nothing before it is told of slides, and never stops a run.

    Args:
        write: keeps the counts somewhere; where it raises ``OutputError`` it is asked again later.
        interval: seconds between two calls of it.
    """

    def __init__(self, write: Callable[[Counts], None], *, interval: float = WRITE_SECONDS) -> None:
        self._counts, self._write, self._interval = Counts(), write, interval
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._began = 0.0
        self._thread: threading.Thread | None = None

    def slides(self, total: int) -> None:
        with self._lock:  # a run that learns first, and outlines clicks, says it again
            self._counts = Counts(started=time.time(), total=total)
            self._began = time.monotonic()
        self._put_down()
        if self._thread is None:
            self._thread = threading.Thread(target=self._put_down_now_and_then, name="counts", daemon=True)
            self._thread.start()

    def start(self, slide_id: str, stage: str, done: int, total: int) -> None:
        with self._lock:
            self._counts.running[slide_id] = At(stage, done, total)

    def advance(self, slide_id: str, stage: str) -> None:
        with self._lock:
            self._counts.running[slide_id].done += 1
            _count(self._counts.tasks, stage)

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        with self._lock:
            counts = self._counts
            counts.running.pop(slide_id, None)
            _count(counts.states, state)
            if "objects" in facts:  # what an earlier run finished comes without
                counts.work += Work(0, 1, facts.get("tiles") or 0)
                counts.objects += facts["objects"]
        if not self._counts.left:  # the run's report is made from it
            self._put_down()

    def say(self, message: str, **facts: Any) -> None:
        pass

    def close(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._counts.running.clear()
            self._put_down()

    def _put_down(self) -> None:
        with self._lock:
            counts = copy.deepcopy(self._counts)
        counts.updated = time.time()
        counts.work += Work(time.monotonic() - self._began)
        with suppress(OutputError):
            self._write(counts)

    def _put_down_now_and_then(self) -> None:
        while not self._ended.wait(self._interval):
            self._put_down()


def _count(numbers: dict[str, int], name: str) -> None:
    numbers[name] = numbers.get(name, 0) + 1


def brief(number: float) -> str:
    """``"1,890"``, ``"12.3"`` or ``"0.0456"``: three digits, or as many as it takes."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """``"2 h 05 min"``, ``"3 min"`` or ``"40 s"``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min"
