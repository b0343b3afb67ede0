"""Slides side by side: each walks its stages in a thread of the coordinator, and ends with a state and one line."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from wsi_pipeline.errors import DamagedFileError, OutputError, StorageError, WsiPipelineError
from wsi_pipeline.files import is_passing
from wsi_pipeline.run.flow import Stopped
from wsi_pipeline.run.slide import forget_tasks, run_slide
from wsi_pipeline.run.walk import RunContext, SlideTask
from wsi_pipeline.slides.staging import is_remote, release

LONGEST_WAIT = 30.0
"""Seconds between two tries at storage that is full or does not answer."""


class SlidePool:
    """Runs slides, the first ones first.

    Args:
        context: what they share.
        at_once: how many may be in work now; asked again and again, as workers come and go.
        patience: seconds to wait for storage that is full or does not answer, before a slide fails of it.
    """

    def __init__(self, context: RunContext, at_once: Callable[[], int], patience: float) -> None:
        self._context, self._at_once, self._patience = context, at_once, patience
        self._changed, self._stop = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self, tasks: Iterable[SlideTask]) -> None:
        """Run all slides; whatever goes wrong with one becomes its state and one line.

        Raises:
            KeyboardInterrupt: as it came; the slides in work are pending again.
        """
        waiting = iter(tasks)
        try:
            while self._start(waiting) or self._threads:
                self._changed.wait(timeout=1)
                self._changed.clear()
                self._threads = [thread for thread in self._threads if thread.is_alive()]
        except BaseException:
            self._stop.set()
            self._context.flow.stop()
            for thread in self._threads:
                thread.join()
            raise

    def _start(self, waiting: Iterable[SlideTask]) -> bool:
        """Put slides to work as far as there is room; returns whether there may be more."""
        while len(self._threads) < self._at_once():
            task = next(iter(waiting), None)
            if task is None:
                return False
            thread = threading.Thread(target=self._work, args=(task,), name=task.id, daemon=True)
            self._threads.append(thread)
            thread.start()
        return True

    def _work(self, task: SlideTask) -> None:
        try:
            reason = self._run(task)
            if reason is not None:
                self._record(task, reason)
        except Stopped:
            with suppress(WsiPipelineError):
                self._context.ledger.set_state(task.id, "pending")
        finally:
            self._changed.set()

    def _run(self, task: SlideTask) -> str | None:
        """Run one slide, again where what stopped it may pass; returns why it failed."""
        trouble = _Trouble(self._patience)
        while True:
            done = self._context.flow.ended
            try:
                run_slide(task, self._context)
                return None
            except Stopped:
                raise
            except DamagedFileError as error:
                if not trouble.may_mend(error, task.output):
                    return str(error)
                self._context.reporter.say(f"{task.id}: {error.where} {error.what}; it is made anew")
                forget_tasks(task.output)
            except Exception as error:
                if not (isinstance(error, StorageError) or is_passing(error)):
                    return self._reason(task, error)
                if self._context.flow.ended > done:  # storage was all right in between
                    trouble.tries = 0
                wait = trouble.next_wait()
                if wait is None:
                    return self._reason(task, error)
                if trouble.tries == 1:
                    self._context.reporter.say(f"{task.id}: {_line(task, error)} Waiting until it can go on")
                if self._stop.wait(wait):
                    raise Stopped from None

    def _reason(self, task: SlideTask, error: Exception) -> str:
        if not isinstance(error, WsiPipelineError):
            with suppress(OSError):  # a full disk may be the reason
                task.output.mkdir(parents=True, exist_ok=True)
                text = "".join(traceback.format_exception(error))
                (task.output / "error.txt").write_text(text, encoding="utf-8")
        return _line(task, error)

    def _record(self, task: SlideTask, reason: str) -> None:
        """Say and enter that a slide failed; what cannot be entered now is found out by the next run."""
        if is_remote(task.source):
            release(task.source, self._context.staging)
        with suppress(OutputError):
            self._context.ledger.set_state(task.id, "failed", reason=reason)
        self._context.reporter.finish(task.id, "failed", reason=reason)


@dataclass
class _Trouble:
    """What befell one slide, and whether trying again makes sense."""

    patience: float
    tries: int = 0
    since: float = 0.0
    damaged: set[str] = field(default_factory=set)

    def next_wait(self) -> float | None:
        """Seconds until the next try; None when patience is at its end."""
        if not self.tries:
            self.since = time.monotonic()
        elif time.monotonic() - self.since > self.patience:
            return None
        self.tries += 1
        return min(LONGEST_WAIT, 2.0 ** (self.tries - 1), max(self.patience, 0.1))

    def may_mend(self, error: DamagedFileError, folder: Path) -> bool:
        """Remove a damaged file of the slide, unless it was damaged before: then the disk is no good."""
        path = Path(error.where or "")
        if error.where in self.damaged or folder not in path.parents:
            return False
        self.damaged.add(str(error.where))
        path.unlink(missing_ok=True)
        return True


def _line(task: SlideTask, error: Exception) -> str:
    if isinstance(error, WsiPipelineError):
        return str(error)
    return f"{task.label}: {type(error).__name__}: {error}".splitlines()[0]
