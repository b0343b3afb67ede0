"""A slide on its way through the stages: what it is part of, what is finished, and what to report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.models.registry import class_names
from wsi_pipeline.run.flow import Flow
from wsi_pipeline.run.job import SlideJob
from wsi_pipeline.run.ledger import Journal, Ledger
from wsi_pipeline.run.progress import Reporter
from wsi_pipeline.run.provenance import fingerprint_of
from wsi_pipeline.segment.recognise import run_classes
from wsi_pipeline.workflow import Workflow

if TYPE_CHECKING:
    from wsi_pipeline.slides.info import SlideInfo

SCRATCH = ".scratch"
"""Folder of intermediate files inside a slide's output folder."""


@dataclass(frozen=True)
class Recipe:
    """A workflow made ready: what slides are done by.

    Attributes:
        workflow: what to do.
        weights: facts about every file of weights.
        dtypes: precision of the model of each stage.
        input_size: px of the patches that the first stage takes.
        settings: what a manifest changed of the run's workflow.
    """

    workflow: Workflow
    weights: list[dict[str, Any]]
    dtypes: Mapping[str, str]
    input_size: int
    settings: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def key(self) -> str:
        """Short hash of what the memory that a patch takes follows from."""
        return fingerprint_of(
            self.workflow.model_dump(mode="json", include={"segment", "refine", "recognise", "prompts"})
        )


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all slides of a run share; see ``run.archive``."""

    flow: Flow
    ledger: Ledger
    reporter: Reporter
    threads: int
    roi: tuple[float, float, float, float] | None
    keep_scratch: bool
    embeddings: Path | None
    staging: Path


@dataclass(frozen=True, slots=True)
class SlideTask:
    """One slide of a run.

    Attributes:
        id: its folder name in the output folder.
        source: absolute path, or URL; that may hold secrets.
        label: the same without secrets.
        recipe: what to do with it.
        mpp: µm per level-0 px given by the user, or None.
        prompts: QuPath GeoJSON, where the workflow takes one.
        output: its folder.
        order: its place among the run's slides.
    """

    id: str
    source: str
    label: str
    recipe: Recipe
    mpp: float | None
    prompts: Path | None
    output: Path
    order: int = 0


@dataclass
class Walk:
    """A slide on its way: runs stages, remembers what is finished, and collects what to report."""

    task: SlideTask
    context: RunContext
    info: SlideInfo
    journal: Journal
    fingerprint: str
    identity: str
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def workflow(self) -> Workflow:
        return self.task.recipe.workflow

    @property
    def scratch(self) -> Path:
        return self.task.output / SCRATCH

    def job(self, grid: Any, classes: tuple[str | None, ...]) -> SlideJob:
        """The slide's run on a working grid, whose objects are of ``classes`` unless they are recognised."""
        settings = self.workflow.recognise
        recognised = () if settings is None else class_names(settings)
        return SlideJob(
            info=self.info,
            mpp=self.task.mpp,
            workflow=self.workflow,
            dtypes=self.task.recipe.dtypes,
            fingerprint=self.fingerprint,
            identity=self.identity,
            grid=grid,
            classes=run_classes(classes, settings, recognised),
            scratch=self.scratch,
            output=self.task.output,
            embeddings=self.context.embeddings,
            fits=self.context.ledger.fits(self.task.recipe.key),
            recognised=recognised,
        )

    def stage(
        self,
        name: str,
        function: Callable[..., dict[str, Any]],
        tasks: Iterable[tuple[int, tuple[Any, ...]]],
        total: int,
        *,
        model: bool = False,
    ) -> dict[int, dict[str, Any]]:
        """Run the tasks of a stage that an earlier run has not finished; returns the facts of all of them.

        Args:
            name: of the stage.
            function: what a task does.
            tasks: ``(number, arguments)`` of all tasks, taken lazily.
            total: how many they are.
            model: whether they ask a model.
        """
        reporter = self.context.reporter
        facts = self.journal.finished(name)
        started = time.monotonic()
        reporter.start(self.task.id, name, len(facts), total)
        reused = len(facts)

        def finish(number: int, result: dict[str, Any]) -> None:
            nonlocal reused
            reused += bool(result.get("reused"))
            self.journal.finish(name, number, result)
            facts[number] = result
            if "fits" in result:
                self.context.ledger.remember_fits(self.task.recipe.key, result["fits"])
            reporter.advance(self.task.id, name)

        waiting = ((number, arguments) for number, arguments in tasks if number not in facts)
        self.context.flow.run(
            function,
            waiting,
            finish,
            total=total - reused,
            order=self.task.order,
            weight=task_bytes(self.task.recipe, model=model),
            model=model,
        )
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
        self.counts[name] = {"tasks": total, "computed": total - reused, "reused": reused} | _summed(facts)
        return facts

    def once(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one task on a worker that is repeated by every resume."""
        return self.together(name, [(function, *arguments)])[0]

    def together(self, name: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run a few tasks ``(function, *arguments)`` side by side; they are repeated by every resume."""
        started = time.monotonic()
        reporter = self.context.reporter
        reporter.start(self.task.id, name, 0, len(calls))
        results = self.context.flow.together(
            list(calls), lambda: reporter.advance(self.task.id, name), order=self.task.order
        )
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
        return results


BYTES_PER_PX = 64
"""What a worker holds per px of a patch while it is at it: the image, its floats, logits, masks and their packing."""


def task_bytes(recipe: Recipe, *, model: bool) -> int:
    """Memory that one task needs at most, bytes: the patches of a batch, or the labels of one shard."""
    workflow = recipe.workflow
    if model:
        return workflow.tiling.batch * recipe.input_size**2 * BYTES_PER_PX
    return workflow.stitch.shard**2 * 16  # ids, classes, probability and the logits they are made from


def _summed(facts: dict[int, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What the tasks of a stage spent and did, over all workers; nothing where they do not say."""
    totals: dict[str, dict[str, float]] = {}
    for fact in facts.values():
        for group in ("seconds", "patches", "refine", "classes"):
            for part, number in fact.get(group, {}).items():
                total = totals.setdefault(group, {})
                total[part] = round(total.get(part, 0) + number, 3)
    return totals
