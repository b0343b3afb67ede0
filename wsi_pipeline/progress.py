"""What all progress reports share: bars on a terminal, one JSON line per event elsewhere."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class EventLines:
    """One JSON object per event, flushed at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def _emit(self, event: str, **facts: Any) -> None:
        line = {"time": round(time.time(), 3), "event": event} | facts
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()

    def say(self, message: str, **facts: Any) -> None:
        self._emit("message", message=message, **facts)

    def close(self) -> None:
        self._stream.flush()


class TerminalBars:
    """Rich progress bars on stderr, which lines of text scroll past."""

    def __init__(self, *columns: ProgressColumn) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(*columns, console=Console(stderr=True))
        self._progress.start()

    def say(self, message: str, **facts: Any) -> None:
        self._progress.console.print(message, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()
