"""A slide on its way through the stages: what it is part of, what is finished, and what to report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.run.cluster import run_tasks
from wsi_pipeline.run.job import SlideJob
from wsi_pipeline.run.ledger import Ledger
from wsi_pipeline.run.progress import Reporter
from wsi_pipeline.workflow import Workflow

if TYPE_CHECKING:
    from distributed import Client

    from wsi_pipeline.slides.info import SlideInfo

SCRATCH = ".scratch"
"""Folder of intermediate files inside a slide's output folder."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all slides of a run share; see ``run.archive``."""

    client: Client
    ledger: Ledger
    reporter: Reporter
    workflow: Workflow
    weights: list[dict[str, Any]]
    dtypes: Mapping[str, str]
    input_size: int
    threads: int
    roi: tuple[float, float, float, float] | None
    keep_scratch: bool
    embeddings: Path | None


@dataclass(frozen=True, slots=True)
class SlideTask:
    """One slide of a run.

    Attributes:
        id: its folder name in the output folder.
        path: the slide.
        mpp: µm per level-0 px given by the user, or None.
        prompts: QuPath GeoJSON, where the workflow takes one.
        output: its folder.
    """

    id: str
    path: Path
    mpp: float | None
    prompts: Path | None
    output: Path


@dataclass
class Walk:
    """A slide on its way: runs stages, remembers what is finished, and collects what to report."""

    task: SlideTask
    context: RunContext
    info: SlideInfo
    fingerprint: str
    identity: str
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        return self.task.output / SCRATCH

    def job(self, grid: Any, classes: tuple[str | None, ...]) -> SlideJob:
        return SlideJob(
            info=self.info,
            mpp=self.task.mpp,
            workflow=self.context.workflow,
            dtypes=self.context.dtypes,
            fingerprint=self.fingerprint,
            identity=self.identity,
            grid=grid,
            classes=classes,
            scratch=self.scratch,
            output=self.task.output,
            embeddings=self.context.embeddings,
        )

    def stage(
        self,
        name: str,
        function: Callable[..., dict[str, Any]],
        tasks: Iterable[tuple[int, tuple[Any, ...]]],
        total: int,
    ) -> dict[int, dict[str, Any]]:
        """Run the tasks of a stage that an earlier run has not finished; returns the facts of all of them."""
        ledger, reporter = self.context.ledger, self.context.reporter
        facts = ledger.finished(self.task.id, name)
        started = time.monotonic()
        reporter.start(self.task.id, name, len(facts), total)
        reused = len(facts)

        def finish(number: int, result: dict[str, Any]) -> None:
            nonlocal reused
            reused += bool(result.get("reused"))
            ledger.finish(self.task.id, name, number, result)
            facts[number] = result
            reporter.advance(self.task.id, name)

        waiting = ((number, arguments) for number, arguments in tasks if number not in facts)
        run_tasks(self.context.client, function, waiting, finish)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
        self.counts[name] = {"tasks": total, "computed": total - reused, "reused": reused} | _summed(facts)
        return facts

    def once(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one task on a worker that is repeated by every resume."""
        return self.together(name, [(function, *arguments)])[0]

    def together(self, name: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run a few tasks ``(function, *arguments)`` side by side; they are repeated by every resume."""
        started = time.monotonic()
        self.context.reporter.start(self.task.id, name, 0, len(calls))
        results = []
        for future in [self.context.client.submit(*call, pure=False) for call in calls]:
            results.append(future.result())
            self.context.reporter.advance(self.task.id, name)
        self.seconds[name] = time.monotonic() - started
        return results


def _summed(facts: dict[int, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What the tasks of a stage spent and did, over all workers; nothing where they do not say."""
    totals: dict[str, dict[str, float]] = {}
    for fact in facts.values():
        for group in ("seconds", "patches", "refine"):
            for part, number in fact.get(group, {}).items():
                total = totals.setdefault(group, {})
                total[part] = round(total.get(part, 0) + number, 3)
    return totals
