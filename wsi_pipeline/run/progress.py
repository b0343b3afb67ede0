"""Telling people how far a run is: bars on a terminal, one JSON line per event elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from wsi_pipeline.progress import EventLines, TerminalBars

SHOWN = 8
"""Slides in work that have a bar of their own; there may be more."""


class Reporter(Protocol):
    """Where a run says what happens, one call at a time. Counts are of tasks of one stage of one slide."""

    def slides(self, total: int) -> None: ...
    def start(self, slide_id: str, stage: str, done: int, total: int) -> None: ...
    def advance(self, slide_id: str, stage: str) -> None: ...
    def finish(self, slide_id: str, state: str, **facts: Any) -> None: ...
    def say(self, message: str, **facts: Any) -> None: ...
    def close(self) -> None: ...


class Everybody:
    """Tells several reporters, each call to all of them before the next, whatever thread it comes from."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters, self._lock = reporters, threading.Lock()

    def slides(self, total: int) -> None:
        self._tell("slides", total)

    def start(self, slide_id: str, stage: str, done: int, total: int) -> None:
        self._tell("start", slide_id, stage, done, total)

    def advance(self, slide_id: str, stage: str) -> None:
        self._tell("advance", slide_id, stage)

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        self._tell("finish", slide_id, state, **facts)

    def say(self, message: str, **facts: Any) -> None:
        self._tell("say", message, **facts)

    def close(self) -> None:
        self._tell("close")

    def _tell(self, what: str, *words: Any, **facts: Any) -> None:
        with self._lock:
            for reporter in self._reporters:
                getattr(reporter, what)(*words, **facts)


@dataclass
class _Stage:
    """Where a slide is: tasks done of its stage, and when that was said last."""

    done: int
    total: int
    said: float


class JsonLines(EventLines):
    """One JSON object per event; a stage's progress at most once per ``interval`` seconds."""

    def __init__(self, stream: TextIO, *, interval: float = 5.0) -> None:
        super().__init__(stream)
        self._interval = interval
        self._stages: dict[str, _Stage] = {}

    def slides(self, total: int) -> None:
        self._emit("slides", total=total)

    def start(self, slide_id: str, stage: str, done: int, total: int) -> None:
        self._stages[slide_id] = _Stage(done, total, time.monotonic())
        self._emit("stage", slide=slide_id, stage=stage, done=done, total=total)

    def advance(self, slide_id: str, stage: str) -> None:
        at = self._stages[slide_id]
        at.done += 1
        if at.done < at.total and time.monotonic() - at.said < self._interval:
            return
        at.said = time.monotonic()
        self._emit("progress", slide=slide_id, stage=stage, done=at.done, total=at.total)

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        self._stages.pop(slide_id, None)
        self._emit("slide", slide=slide_id, state=state, **facts)


class Bars(TerminalBars):
    """Rich progress bars: one for the archive, and one for the stage of every slide in work."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        super().__init__(*columns, TextColumn("left"), Remaining())
        self._archive = self._progress.add_task("slides", total=None)
        self._stages: dict[str, Any] = {}

    def slides(self, total: int) -> None:
        for slide_id in list(self._stages):  # a run that learns first, and outlines clicks, says it again
            self._remove(slide_id)
        self._progress.reset(self._archive, total=total)

    def start(self, slide_id: str, stage: str, done: int, total: int) -> None:
        self._remove(slide_id)
        # the rate, and so the time left, counts only what this run does itself
        if len(self._stages) < SHOWN:
            self._stages[slide_id] = self._progress.add_task(f"{slide_id[:22]}: {stage}", total=total, completed=done)

    def advance(self, slide_id: str, stage: str) -> None:
        if slide_id in self._stages:
            self._progress.advance(self._stages[slide_id])

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        self._progress.advance(self._archive)
        self._remove(slide_id)
        reason = f": {facts['reason']}" if facts.get("reason") else ""
        objects = f", {facts['objects']:,} objects" if facts.get("objects") else ""
        self.say(f"{slide_id}: {state}{objects}{reason}")

    def _remove(self, slide_id: str) -> None:
        if slide_id in self._stages:
            self._progress.remove_task(self._stages.pop(slide_id))


def reporter_for(stream: TextIO | None = None) -> Reporter:
    """Bars when a person watches, JSON lines otherwise."""
    stream = stream or sys.stderr
    return Bars() if stream.isatty() else JsonLines(stream)
