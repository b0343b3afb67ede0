"""Everybody who is told what a run does: the terminal, a log, and Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from wsi_pipeline.files import writing
from wsi_pipeline.run.progress import Everybody, JsonLines, Reporter, reporter_for
from wsi_pipeline.run.prometheus import metrics_file


@contextmanager
def reporters(log_json: Path | None, prometheus: Path | None) -> Iterator[Reporter]:
    """A reporter for the length of a run.

    Args:
        log_json: file that every event is added to, a JSON object a line.
        prometheus: file that is kept up to date with metrics, see ``run.prometheus``.

    Raises:
        OutputError: one of the files cannot be written.
    """
    with ExitStack() as stack:
        told: list[Reporter] = []
        if log_json is not None:
            told.append(stack.enter_context(_log(log_json)))
        if prometheus is not None:
            told.append(metrics_file(prometheus))
        everybody = Everybody([reporter_for(), *told])
        stack.callback(everybody.close)
        yield everybody


class _Log(JsonLines):
    """JSON lines in a file; what cannot be written now, as a disk is full, is no reason to stop."""

    def _emit(self, event: str, **facts: Any) -> None:
        with suppress(OSError):
            super()._emit(event, **facts)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _log(path: Path) -> Iterator[_Log]:
    with writing(path):
        file = path.open("a", encoding="utf-8")
    try:
        yield _Log(file)
    finally:
        with suppress(OSError):
            file.close()
