"""Telling people how far training is: bars on a terminal, one JSON line per event elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Protocol, TextIO

from wsi_pipeline.progress import EventLines, TerminalBars


class Reporter(Protocol):
    """Where training says what happens."""

    def start(self, epoch: int, steps: int) -> None: ...
    def advance(self) -> None: ...
    def finish(self, row: dict[str, Any]) -> None: ...
    def say(self, message: str) -> None: ...
    def close(self) -> None: ...


class JsonLines(EventLines):
    """One JSON object per epoch begun and done."""

    def start(self, epoch: int, steps: int) -> None:
        self._emit("start", epoch=epoch, steps=steps)

    def advance(self) -> None:
        pass

    def finish(self, row: dict[str, Any]) -> None:
        self._emit("epoch", **row)


class Bars(TerminalBars):
    """A bar for the epoch in work, and a line for each that is done."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

        super().__init__(TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._epoch = self._progress.add_task("", total=None)

    def start(self, epoch: int, steps: int) -> None:
        self._progress.reset(self._epoch, description=f"epoch {epoch}", total=steps)

    def advance(self) -> None:
        self._progress.advance(self._epoch)

    def finish(self, row: dict[str, Any]) -> None:
        shown = (f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
        self.say(f"epoch {row['epoch']}: {', '.join(shown)}")


class Silence:
    """Says nothing; of several processes one speaks for all."""

    def start(self, epoch: int, steps: int) -> None: ...
    def advance(self) -> None: ...
    def finish(self, row: dict[str, Any]) -> None: ...
    def say(self, message: str) -> None: ...
    def close(self) -> None: ...


def reporter_for(stream: TextIO | None = None, *, quiet: bool = False) -> Reporter:
    """Bars when a person watches, JSON lines otherwise, or nothing."""
    stream = stream or sys.stderr
    if quiet:
        return Silence()
    return Bars() if stream.isatty() else JsonLines(stream)
