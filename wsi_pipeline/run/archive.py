"""An archive, from what was asked for to its report: a slide that fails never stops the others."""

from __future__ import annotations

import _thread
import logging
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from wsi_pipeline.cluster.connect import connect
from wsi_pipeline.cluster.demand import Demand
from wsi_pipeline.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_FAILED, OutputError, PromptError
from wsi_pipeline.run.flow import Flow
from wsi_pipeline.run.folder import Shard, open_folder, remove_partial_files, slides_in
from wsi_pipeline.run.ledger import FINISHED, Ledger
from wsi_pipeline.run.progress import Everybody, Reporter, reporter_for
from wsi_pipeline.run.prompt_files import file_of_points, file_of_prompts
from wsi_pipeline.run.provenance import host_facts, read_json, write_json
from wsi_pipeline.run.recipes import Models, make_ready, models_part, name_models
from wsi_pipeline.run.report import write_report
from wsi_pipeline.run.requests import Settings, SlideRequest, can_be_folder, read_requests
from wsi_pipeline.run.slide_pool import SlidePool
from wsi_pipeline.run.snapshot import snapshots
from wsi_pipeline.run.walk import Recipe, RunContext, SlideTask
from wsi_pipeline.workflow import Workflow, change_workflow

Result = TypeVar("Result")

MOST_AT_ONCE = 64
"""Slides in work at a time; each has a thread of the coordinator and intermediate files on disk."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to a workflow.

    Attributes:
        output: output folder.
        prompts: QuPath GeoJSON, or a folder of them named by slide.
        mpp: µm per level-0 px that overrides the slides' own.
        roi: ``x, y, width, height`` in level-0 px; only what lies there is segmented.
        workers, threads, cluster, profile, dashboard: see ``cluster.connect``.
        overwrite: whether results of another workflow may be replaced.
        keep_scratch: whether the intermediate files of finished slides stay.
        embeddings: folder to keep embeddings in, for later runs; None for not at all.
        staging: folder that remote slides are copied to while they are in work; None takes one in the output folder.
        shard: the part of the slides that this process does, where several without a scheduler share an archive.
        slides_at_once: most slides in work at a time; None takes as many as there are worker threads.
        patience: seconds to wait for storage that is full or does not answer, before a slide fails of it.
        only: ids of the slides to do; None for all.
    """

    output: Path
    prompts: Path | None = None
    mpp: float | None = None
    roi: tuple[float, float, float, float] | None = None
    workers: int | None = None
    threads: int = 1
    cluster: str = "local"
    profile: Path | None = None
    dashboard: bool = False
    overwrite: bool = False
    keep_scratch: bool = False
    embeddings: Path | None = None
    staging: Path | None = None
    shard: Shard | None = None
    slides_at_once: int | None = None
    patience: float = 3600.0
    only: Collection[str] | None = None


def run_archive(
    slides: Sequence[str | Path], workflow: Workflow, options: RunOptions, reporter: Reporter | None = None
) -> int:
    """Run a workflow over slides; what an earlier run finished is not computed again.

    Args:
        slides: files, folders, globs, URLs and manifests, see ``run.requests``.
        workflow: what to do; a manifest may change some of it for single slides.
        options: see there.
        reporter: who is told what happens.

    Returns:
        The exit code: 0 all done, 3 some slides failed, 130 interrupted.

    Raises:
        WsiPipelineError: nothing could be started (no slides, unusable output folder, unknown model, …).
    """
    options = _absolute(options)
    reporter = reporter or reporter_for()
    try:
        requests = read_requests(slides, partial(change_workflow, workflow))
        if workflow.learn is not None:
            return _learn_and_run(requests, slides, workflow, options, reporter)
        return _run(requests, slides, workflow, options, reporter)
    finally:
        reporter.close()


def _learn_and_run(
    requests: Sequence[SlideRequest],
    given: Sequence[str | Path],
    workflow: Workflow,
    options: RunOptions,
    reporter: Reporter,
) -> int:
    """Learn from the slides with points, outline these points, and then run all slides with what was learned."""
    from wsi_pipeline.run.learning import LEARNED, OUTLINED, ClickedSlide, Lesson, finding, learn, outlining

    lesson = Lesson.of(workflow)
    points = [file_of_points(request, len(requests), options.prompts) for request in requests]
    clicked = [
        ClickedSlide(request, path, request.mpp or options.mpp)
        for request, path in zip(requests, points, strict=True)
        if path is not None
    ]
    if not clicked:
        fix = "Give --prompts: a QuPath GeoJSON with points, or a folder with <slide name>.geojson for some slides"
        raise PromptError("no slide has a file of points to learn from", where=workflow.name, fix=fix)

    def work(ledger: Ledger, told: Reporter) -> Path:
        told.slides(len(_ours(requests, _assign_ids(requests, ledger, told), options)))
        return learn(
            lesson,
            clicked,
            options.output,
            embeddings=options.embeddings,
            staging=_staging(options),
            keep_scratch=options.keep_scratch,
            reporter=told,
        )

    weights = _in_folder(workflow, options, reporter, work)
    if weights is None:
        return EXIT_INTERRUPTED
    # their settings in a manifest are about finding objects everywhere
    asked = [replace(one.request, settings=()) for one in clicked]
    folder = replace(options, output=options.output / LEARNED / OUTLINED, staging=_staging(options), only=None)
    codes = [_run(asked, [one.source for one in asked], outlining(workflow, weights), folder, reporter)]
    if codes[0] != EXIT_INTERRUPTED:
        codes.append(_run(requests, given, finding(workflow, weights), options, reporter))
    return max(codes)


def _run(
    requests: Sequence[SlideRequest],
    given: Sequence[str | Path],
    workflow: Workflow,
    options: RunOptions,
    reporter: Reporter,
) -> int:
    """Run a workflow over slides that were given so; returns the exit code."""
    change = partial(change_workflow, workflow)
    models = name_models((one.settings for one in requests), change)
    prompts = [
        file_of_prompts(one, len(requests), models[models_part(one.settings)].workflow, options.prompts)
        for one in requests
    ]

    def work(ledger: Ledger, told: Reporter) -> int:
        for note in dict.fromkeys(note for one in models.values() for note in one.notes):
            told.say(note)
        ids = _assign_ids(requests, ledger, told)
        todo = _ours(requests, ids, options)
        try:
            with _flow(options, told) as flow:
                recipes = _make_ready(flow, models, options, given)
                told.slides(len(todo))
                context = RunContext(
                    flow=flow,
                    ledger=ledger,
                    reporter=told,
                    threads=options.threads,
                    roi=options.roi,
                    keep_scratch=options.keep_scratch,
                    embeddings=options.embeddings,
                    staging=_staging(options),
                )
                at_once = partial(_at_once, flow, options)
                SlidePool(context, at_once, options.patience).run(
                    SlideTask(
                        id=ids[number],
                        source=requests[number].source,
                        label=requests[number].label,
                        recipe=_recipe(requests[number].settings, recipes, change),
                        mpp=requests[number].mpp or options.mpp,
                        prompts=prompts[number],
                        output=options.output / ids[number],
                        order=order,
                    )
                    for order, number in enumerate(todo)
                )
        finally:
            _write_report(options.output, told)
        unfinished = [ids[number] for number in todo if _state(ledger, ids[number]) not in FINISHED]
        return EXIT_SOME_FAILED if unfinished else EXIT_OK

    code = _in_folder(workflow, options, reporter, work)
    return EXIT_INTERRUPTED if code is None else code


def _in_folder(
    workflow: Workflow, options: RunOptions, reporter: Reporter, work: Callable[[Ledger, Reporter], Result]
) -> Result | None:
    """Do work in the output folder, which nobody else writes in meanwhile.

    Args:
        workflow, options, reporter: of the run.
        work: gets the folder's ledger and whom to tell.

    Returns:
        What it returns; None where it was stopped.

    Raises:
        WsiPipelineError: the folder cannot be used, or another run took it over.
    """
    shots = snapshots(options.output, options.shard)
    told = Everybody([reporter, shots])
    lost = _Lost()
    try:
        with (
            _terminable(),
            _logged(told),
            open_folder(
                options.output,
                workflow,
                shard=options.shard,
                overwrite=options.overwrite,
                lost=lost.now,
                say=told.say,
            ) as ledger,
        ):
            remove_partial_files(options.output)
            return work(ledger, told)
    except KeyboardInterrupt:
        if lost.is_so:
            raise OutputError(
                "another run took this folder over, as this one did not answer for a while",
                where=options.output,
                fix="Wait for that run, then run the same command again",
            ) from None
        told.say("stopped; run the same command again to go on")
        return None
    finally:
        shots.close()


def _ours(requests: Sequence[SlideRequest], ids: Sequence[str], options: RunOptions) -> list[int]:
    """Numbers of the slides that this process does."""
    return [number for number in range(len(requests)) if _is_ours(number, ids[number], options)]


def _staging(options: RunOptions) -> Path:
    return options.staging or options.output / ".staged"


@contextmanager
def _flow(options: RunOptions, reporter: Reporter) -> Iterator[Flow]:
    """The way to the workers, for the length of a run."""
    demand = Demand()
    with connect(
        options.cluster,
        profile=options.profile,
        workers=options.workers,
        threads=options.threads,
        demand=demand,
        say=reporter.say,
        dashboard=options.dashboard,
    ) as client:
        yield Flow(client, demand)


def _at_once(flow: Flow, options: RunOptions) -> int:
    """So many that no worker idles while slides are in stages of a single task each."""
    return min(options.slides_at_once or MOST_AT_ONCE, max(1, flow.capacity.threads))


def _is_ours(number: int, slide_id: str, options: RunOptions) -> bool:
    if options.only is not None and slide_id not in options.only:
        return False
    return options.shard is None or options.shard.holds(number)


def _state(ledger: Ledger, slide_id: str) -> str | None:
    row = ledger.slide(slide_id)
    return row.state if row else None


def _absolute(options: RunOptions) -> RunOptions:
    """Workers may live in another folder."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.abspath(path))

    return replace(
        options,
        output=Path(os.path.abspath(options.output)),
        prompts=absolute(options.prompts),
        embeddings=absolute(options.embeddings),
        staging=absolute(options.staging),
    )


def _make_ready(
    flow: Flow, models: Mapping[Settings, Models], options: RunOptions, slides: Sequence[str | Path]
) -> dict[Settings, Recipe]:
    """The recipe of all models; what they are is left in ``run.json``."""
    path = options.output / "run.json"
    earlier = read_json(path) or {}
    recipes, told = {}, []
    for part, one in models.items():
        recipes[part], facts = make_ready(flow, one, earlier)
        told.append(facts)
    first, *changed = told
    asked = {
        "slides": [_as_given(one) for one in slides],
        "prompts": None if options.prompts is None else str(options.prompts),
        "mpp": options.mpp,
        "roi": options.roi,
        "keep_scratch": options.keep_scratch,
        "embeddings": None if options.embeddings is None else str(options.embeddings),
        "staging": None if options.staging is None else str(options.staging),
    }
    write_json(path, first | {"changed": changed, "threads": options.threads, "asked": asked, "host": host_facts()})
    return recipes


def _recipe(
    settings: Settings, recipes: Mapping[Settings, Recipe], change: Callable[[dict[str, Any]], Workflow]
) -> Recipe:
    """A slide's recipe, made when its turn comes: every slide of an archive may have settings of its own."""
    ready = recipes[models_part(settings)]
    return replace(ready, workflow=change(dict(settings)), settings=settings) if settings else ready


def _as_given(source: str | Path) -> str:
    """What was asked for, so that it means the same from every folder."""
    from wsi_pipeline.slides.urls import is_remote, shown

    return shown(str(source)) if is_remote(str(source)) else os.path.abspath(source)


def _assign_ids(requests: Sequence[SlideRequest], ledger: Ledger, reporter: Reporter) -> list[str]:
    """A folder name per slide; slides of one name are told apart by a hash of their path.

    A slide keeps the id that an earlier run gave it, so that adding a namesake later does not move results.
    """
    from wsi_pipeline.slides.slide import slide_name

    names = [request.id or ledger.id_of(request.label) or slide_name(request.source) for request in requests]
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    ids = []
    for request, name in zip(requests, names, strict=True):
        known = ledger.slide(name)
        settled = request.id is not None or (known is not None and known.path == request.label)
        if not settled and (counts[name] > 1 or known is not None or not can_be_folder(name)):
            usable = can_be_folder(name)
            why = f"another slide is called {name} too" if usable else f"{name} cannot be the name of a folder"
            start = name if usable else "slide"
            name = f"{start}-{sha256(request.label.encode()).hexdigest()[:8]}"
            reporter.say(f"{request.label}: {why}; this one's results go to {name}")
        ledger.add(name, request.label)
        ids.append(name)
    return ids


def _write_report(output: Path, reporter: Reporter) -> None:
    try:
        write_report(output, slides_in(output))
    except OutputError as error:  # the results are there without it
        reporter.say(f"no report: {error}")


class _Lost:
    """Ends a run whose folder somebody else took: called from the thread that renews the lease."""

    is_so = False

    def now(self) -> None:
        self.is_so = True
        _thread.interrupt_main()


class _Say(logging.Handler):
    """Passes warnings on to a reporter."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.say(record.getMessage())


@contextmanager
def _logged(reporter: Reporter) -> Iterator[None]:
    """Show the package's warnings among the run's other lines."""
    handler, package = _Say(reporter), logging.getLogger("wsi_pipeline")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM stop a run as cleanly as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: the embedding program handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
