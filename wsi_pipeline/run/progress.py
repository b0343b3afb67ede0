"""Telling people how far a run is: bars on a terminal, one JSON line per event elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol, TextIO

from wsi_pipeline.progress import EventLines, TerminalBars


class Reporter(Protocol):
    """Where a run says what happens. Counts are of tasks of one stage of one slide."""

    def slides(self, total: int) -> None: ...
    def start(self, slide_id: str, stage: str, done: int, total: int) -> None: ...
    def advance(self, slide_id: str, stage: str) -> None: ...
    def finish(self, slide_id: str, state: str, **facts: Any) -> None: ...
    def say(self, message: str, **facts: Any) -> None: ...
    def close(self) -> None: ...


class JsonLines(EventLines):
    """One JSON object per event; stage progress at most once per ``interval`` seconds."""

    def __init__(self, stream: TextIO, *, interval: float = 5.0) -> None:
        super().__init__(stream)
        self._interval = interval
        self._done, self._total, self._last = 0, 0, 0.0

    def slides(self, total: int) -> None:
        self._emit("slides", total=total)

    def start(self, slide_id: str, stage: str, done: int, total: int) -> None:
        self._done, self._total, self._last = done, total, time.monotonic()
        self._emit("stage", slide=slide_id, stage=stage, done=done, total=total)

    def advance(self, slide_id: str, stage: str) -> None:
        self._done += 1
        if self._done < self._total and time.monotonic() - self._last < self._interval:
            return
        self._last = time.monotonic()
        self._emit("progress", slide=slide_id, stage=stage, done=self._done, total=self._total)

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        self._emit("slide", slide=slide_id, state=state, **facts)


class Bars(TerminalBars):
    """Rich progress bars: one for the archive, one for the stage of the slide in work."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        super().__init__(*columns, TextColumn("left"), Remaining())
        self._archive = self._progress.add_task("slides", total=None)
        self._stage = self._progress.add_task("", total=None, visible=False)

    def slides(self, total: int) -> None:
        self._progress.update(self._archive, total=total)

    def start(self, slide_id: str, stage: str, done: int, total: int) -> None:
        # the rate, and so the time left, counts only what this run does itself
        self._progress.reset(
            self._stage, description=f"{slide_id[:22]}: {stage}", total=total, completed=done, visible=True
        )

    def advance(self, slide_id: str, stage: str) -> None:
        self._progress.advance(self._stage)

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        self._progress.advance(self._archive)
        self._progress.update(self._stage, visible=False)
        reason = f": {facts['reason']}" if facts.get("reason") else ""
        objects = f", {facts['objects']:,} objects" if facts.get("objects") else ""
        self.say(f"{slide_id}: {state}{objects}{reason}")


def reporter_for(stream: TextIO | None = None) -> Reporter:
    """Bars when a person watches, JSON lines otherwise."""
    stream = stream or sys.stderr
    return Bars() if stream.isatty() else JsonLines(stream)
