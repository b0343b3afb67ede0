"""Telling people how far training is: bars on a terminal, one JSON line per event elsewhere."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol, TextIO


class Reporter(Protocol):
    """Where training says what happens."""

    def start(self, epoch: int, steps: int) -> None: ...
    def advance(self) -> None: ...
    def finish(self, row: dict[str, Any]) -> None: ...
    def say(self, message: str) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """One JSON object per event, flushed at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def _emit(self, event: str, **facts: Any) -> None:
        self._stream.write(json.dumps({"time": round(time.time(), 3), "event": event} | facts) + "\n")
        self._stream.flush()

    def start(self, epoch: int, steps: int) -> None:
        self._emit("start", epoch=epoch, steps=steps)

    def advance(self) -> None:
        pass

    def finish(self, row: dict[str, Any]) -> None:
        self._emit("epoch", **row)

    def say(self, message: str) -> None:
        self._emit("message", message=message)

    def close(self) -> None:
        pass


class Bars:
    """A bar for the epoch in work, and a line for each that is done."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._progress.start()
        self._epoch = self._progress.add_task("", total=None)

    def start(self, epoch: int, steps: int) -> None:
        self._progress.reset(self._epoch, description=f"epoch {epoch}", total=steps)

    def advance(self) -> None:
        self._progress.advance(self._epoch)

    def finish(self, row: dict[str, Any]) -> None:
        shown = (f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
        self.say(f"epoch {row['epoch']}: {', '.join(shown)}")

    def say(self, message: str) -> None:
        self._progress.console.print(message, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


def reporter_for(stream: TextIO | None = None) -> Reporter:
    """Bars when a person watches, JSON lines otherwise."""
    stream = stream or sys.stderr
    return Bars() if stream.isatty() else JsonLines(stream)
