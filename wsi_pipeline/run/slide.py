"""One slide, from the file to its finished folder, walking the stages from left to right."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline import __version__
from wsi_pipeline.run.cluster import run_tasks
from wsi_pipeline.run.job import SlideJob
from wsi_pipeline.run.ledger import Ledger, State
from wsi_pipeline.run.progress import Reporter
from wsi_pipeline.run.provenance import file_sha256, fingerprint_of, read_json, write_json
from wsi_pipeline.workflow import Workflow

if TYPE_CHECKING:
    from distributed import Client

    from wsi_pipeline.slides.info import SlideInfo

SCRATCH = ".scratch"
"""Folder of intermediate files inside a slide's output folder."""

_RESULTS = (
    "slide.json",
    "annotations.geojson",
    "annotations.geojson.gz",
    "annotations.part*.geojson",
    "annotations.part*.geojson.gz",
    "annotations.import.groovy",
    "objects.parquet",
    "objects.csv",
    "tissue.parquet",
    "overview.png",
    "masks.ome.zarr",
    "masks.ome.tif",
)
"""Everything a run leaves in a slide's folder; what else lies there is not ours."""

_BEFORE_PYRAMID = ("segment", "seams")


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all slides of a run share; see ``run.archive``."""

    client: Client
    ledger: Ledger
    reporter: Reporter
    workflow: Workflow
    weights: list[dict[str, Any]]
    dtype: str
    input_size: int
    threads: int
    roi: tuple[float, float, float, float] | None
    keep_scratch: bool


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
            dtype=self.context.dtype,
            fingerprint=self.fingerprint,
            identity=self.identity,
            grid=grid,
            classes=classes,
            scratch=self.scratch,
            output=self.task.output,
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
    """Where the tasks of a stage spent their time, seconds over all workers; nothing where they do not say."""
    total: dict[str, float] = {}
    for fact in facts.values():
        for part, seconds in fact.get("seconds", {}).items():
            total[part] = round(total.get(part, 0.0) + seconds, 3)
    return {"seconds": total} if total else {}


def run_slide(task: SlideTask, context: RunContext) -> None:
    """Run one slide to its end, or find that it is there already.

    Raises:
        WsiPipelineError: this slide cannot be done, and why.
    """
    from wsi_pipeline.run import dense, prompted, tissue_only
    from wsi_pipeline.slides.slide import open_slide

    with open_slide(task.path, mpp=task.mpp) as slide:
        info = slide.info
    parts = _parts(task, context, info)
    fingerprint = fingerprint_of(parts)
    if _is_done(task, context, fingerprint):
        row = context.ledger.slide(task.id)
        context.reporter.finish(task.id, row.state if row else "done", reason="finished by an earlier run")
        return
    _prepare(task, context, fingerprint)
    walk = Walk(task, context, info, fingerprint, _identity(parts), warnings=list(info.warnings))
    if context.workflow.segment is None:
        objects = tissue_only.run(walk)
    elif context.workflow.prompted:
        objects = prompted.run(walk)
    else:
        objects = dense.run(walk)
    _finish(walk, objects)


def _parts(task: SlideTask, context: RunContext, info: SlideInfo) -> dict[str, Any]:
    """Everything the results follow from: where it differs, old results do not count."""
    tissue = context.workflow.tissue.mask
    return {
        "wsi_pipeline": __version__,
        "workflow": context.workflow.model_dump(mode="json", by_alias=True),
        "weights": context.weights,
        "dtype": context.dtype,
        "threads": context.threads,
        "slide": info.fingerprint,
        "mpp": [info.resolution.x, info.resolution.y],
        "roi": context.roi,
        "prompts": file_sha256(task.prompts) if task.prompts and task.prompts.is_file() else None,
        "tissue": file_sha256(tissue) if tissue and tissue.is_file() else None,
    }


def _identity(parts: dict[str, Any]) -> str:
    """Of what decides which objects there are: how work is cut up and what is written of it changes no id."""
    workflow = {key: dict(value) if isinstance(value, dict) else value for key, value in parts["workflow"].items()}
    for section in ("name", "description", "vectorize", "export"):
        del workflow[section]
    del workflow["tiling"]["batch"], workflow["stitch"]["chunk"], workflow["stitch"]["shard"]
    kept = {key: value for key, value in parts.items() if key != "wsi_pipeline"}
    return fingerprint_of(kept | {"workflow": workflow})


def _is_done(task: SlideTask, context: RunContext, fingerprint: str) -> bool:
    row = context.ledger.slide(task.id)
    finished = read_json(task.output / "slide.json")
    return (
        row is not None
        and row.state in ("done", "empty")
        and row.fingerprint == fingerprint
        and finished is not None
        and finished.get("fingerprint") == fingerprint
    )


def _prepare(task: SlideTask, context: RunContext, fingerprint: str) -> None:
    """Make the slide's folder ready, with nothing in it that was made from something else."""
    row = context.ledger.slide(task.id)
    if row is None or row.fingerprint != fingerprint:
        if row is not None and row.fingerprint is not None:
            context.reporter.say(f"{task.id}: the slide, settings or weights changed since; it is done anew")
        context.ledger.forget_tasks(task.id)
        shutil.rmtree(task.output / SCRATCH, ignore_errors=True)
        _remove(task.output, _RESULTS)
    _forget_lost_files(task, context)
    _remove(task.output, ("error.txt", "*.partial"))  # of a run that failed, of one that was killed
    for folder in ("objects", "seams", "outlines", "rows"):
        (task.output / SCRATCH / folder).mkdir(parents=True, exist_ok=True)
    context.ledger.set_state(task.id, "running", fingerprint=fingerprint)


def _remove(folder: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _forget_lost_files(task: SlideTask, context: RunContext) -> None:
    """A finished task whose files somebody removed is not finished."""
    if not (task.output / SCRATCH).is_dir():
        context.ledger.forget_tasks(task.id)
    elif not (task.output / "masks.ome.zarr").is_dir():
        context.ledger.forget_tasks(task.id, keep=_BEFORE_PYRAMID)


def _finish(walk: Walk, objects: int) -> None:
    """Write the completion marker last, and clear up."""
    task, context, info = walk.task, walk.context, walk.info
    state: State = "done" if objects else "empty"
    write_json(
        task.output / "slide.json",
        {
            "state": state,
            "fingerprint": walk.fingerprint,
            "slide": asdict(info),
            "mpp": [info.resolution.x, info.resolution.y],
            "mpp_source": info.mpp_source,
            "objects": objects,
            "warnings": walk.warnings,
            "tasks": walk.counts,
            "seconds": {name: round(value, 3) for name, value in walk.seconds.items()},
        },
    )
    context.ledger.set_state(task.id, state)
    if not context.keep_scratch:
        shutil.rmtree(walk.scratch, ignore_errors=True)
        context.ledger.forget_tasks(task.id)
    context.reporter.finish(task.id, state, objects=objects, output=str(task.output))
