"""Many slides, one after the other over all workers: a slide that fails never stops the others."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SOME_FAILED,
    OutputError,
    PromptError,
    WsiPipelineError,
)
from wsi_pipeline.run.cluster import connect
from wsi_pipeline.run.ledger import Ledger
from wsi_pipeline.run.progress import Reporter, reporter_for
from wsi_pipeline.run.provenance import host_facts, read_json, write_json
from wsi_pipeline.run.slide import run_slide
from wsi_pipeline.run.walk import RunContext, SlideTask
from wsi_pipeline.workflow import QuPathPrompts, Workflow


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to a workflow.

    Attributes:
        output: output folder.
        prompts: QuPath GeoJSON, or a folder of them named by slide.
        mpp: µm per level-0 px that overrides the slides' own.
        roi: ``x, y, width, height`` in level-0 px; only what lies there is segmented.
        workers, threads, scheduler: see ``run.cluster.connect``.
        overwrite: whether results of another workflow may be replaced.
        keep_scratch: whether the intermediate files of finished slides stay.
        embeddings: folder to keep embeddings in, for later runs; None for not at all.
    """

    output: Path
    prompts: Path | None = None
    mpp: float | None = None
    roi: tuple[float, float, float, float] | None = None
    workers: int | None = None
    threads: int = 1
    scheduler: str | None = None
    overwrite: bool = False
    keep_scratch: bool = False
    embeddings: Path | None = None


def run_archive(
    slides: Sequence[Path], workflow: Workflow, options: RunOptions, reporter: Reporter | None = None
) -> int:
    """Run a workflow over slides; what an earlier run finished is not computed again.

    Returns:
        The exit code: 0 all done, 3 some slides failed, 130 interrupted.

    Raises:
        WsiPipelineError: nothing could be started (no slides, unusable output folder, unknown model, …).
    """
    from wsi_pipeline.models.registry import check_models, prompter_weights, weights_of
    from wsi_pipeline.slides.slide import find_slides

    paths = [Path(os.path.abspath(path)) for path in find_slides(slides)]
    # workers may live in another folder
    options = replace(
        options,
        output=Path(os.path.abspath(options.output)),
        embeddings=None if options.embeddings is None else Path(os.path.abspath(options.embeddings)),
    )
    weights: list[dict[str, Any]] = []
    notes = check_models(workflow)
    for stage, settings in (("segment", workflow.segment), ("refine", workflow.refine)):
        if settings is not None:
            weights += [{"stage": stage} | facts for facts in weights_of(settings)]
    weights += [{"stage": "prompts"} | facts for facts in prompter_weights(workflow.prompts)]
    prompt_files = _prompt_files(paths, workflow, options)
    ledger = _open_output(options.output, workflow, overwrite=options.overwrite)
    reporter = reporter or reporter_for()
    for note in notes:
        reporter.say(note)
    try:
        with (
            _terminable(),
            _logged(reporter),
            connect(options.scheduler, workers=options.workers, threads=options.threads) as client,
        ):
            model = _prepare_models(client, workflow, options.output)
            write_json(
                options.output / "run.json",
                {
                    "workflow": workflow.model_dump(mode="json", by_alias=True),
                    "weights": weights,
                    "model": model,
                    "threads": options.threads,
                    "host": host_facts(),
                },
            )
            context = RunContext(
                client=client,
                ledger=ledger,
                reporter=reporter,
                workflow=workflow,
                weights=weights,
                dtypes=model.get("dtypes", {}),
                input_size=model.get("input_size", 0),
                threads=options.threads,
                roi=options.roi,
                keep_scratch=options.keep_scratch,
                embeddings=options.embeddings,
            )
            ids = _assign_ids(paths, ledger, reporter)
            reporter.slides(len(paths))
            for path in paths:
                task = SlideTask(
                    id=ids[path],
                    path=path,
                    mpp=options.mpp,
                    prompts=prompt_files.get(path),
                    output=options.output / ids[path],
                )
                _run_isolated(task, context)
    except KeyboardInterrupt:
        reporter.say("stopped; run the same command again to go on")
        return EXIT_INTERRUPTED
    finally:
        failed = any(row.state == "failed" for row in ledger.slides() if row.path in {str(p) for p in paths})
        _write_report(options.output, ledger, reporter)
        ledger.close()
        reporter.close()
    return EXIT_SOME_FAILED if failed else EXIT_OK


def _run_isolated(task: SlideTask, context: RunContext) -> None:
    """Run one slide; whatever goes wrong becomes its state and one line."""
    try:
        run_slide(task, context)
    except KeyboardInterrupt:
        context.ledger.set_state(task.id, "pending")
        raise
    except WsiPipelineError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{task.path}: {type(error).__name__}: {error}".splitlines()[0]
        with suppress(OSError):  # a full disk may be the reason
            task.output.mkdir(parents=True, exist_ok=True)
            (task.output / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    else:
        return
    context.ledger.set_state(task.id, "failed", reason=reason)
    context.reporter.finish(task.id, "failed", reason=reason)


def _prepare_models(client: Any, workflow: Workflow, output: Path) -> dict[str, Any]:
    """Have a worker build the models and choose their precision; a resumed run keeps the choice it began with."""
    if workflow.segment is None and workflow.refine is None:
        return {}
    from wsi_pipeline.run.worker_models import prepare_models

    earlier = read_json(output / "run.json") or {}
    same = earlier.get("workflow") == workflow.model_dump(mode="json", by_alias=True)
    dtypes = earlier.get("model", {}).get("dtypes", {}) if same else {}
    # asked of a worker: that is where the model will run, and it keeps torch out of the coordinator
    facts: dict[str, Any] = client.submit(prepare_models, workflow, dtypes, pure=False).result()
    return facts


def _open_output(output: Path, workflow: Workflow, *, overwrite: bool) -> Ledger:
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".write-test"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})", where=output, fix="Choose another --output folder"
        ) from None
    earlier = read_json(output / "run.json")
    if earlier is not None and not overwrite:
        name = earlier.get("workflow", {}).get("name")
        if name != workflow.name:
            raise OutputError(
                f"holds results of the workflow {name}, not {workflow.name}",
                where=output,
                fix="Choose another --output folder, or --overwrite to replace them",
            )
    ledger = Ledger(output / "ledger.sqlite")
    for left in output.glob("*.partial"):  # by a run that was killed
        left.unlink(missing_ok=True)
    return ledger


def _prompt_files(paths: Sequence[Path], workflow: Workflow, options: RunOptions) -> dict[Path, Path]:
    """The prompt file of each slide, where the workflow wants one."""
    from wsi_pipeline.slides.slide import slide_name

    if not isinstance(workflow.prompts, QuPathPrompts):
        if options.prompts is not None:
            raise PromptError(
                f"the workflow {workflow.name} takes no prompt file", where=options.prompts, fix="Leave out --prompts"
            )
        return {}
    source = options.prompts or workflow.prompts.file
    if source is None:
        raise PromptError(
            f"the workflow {workflow.name} needs prompts", where=workflow.name, fix="Give --prompts annotations.geojson"
        )
    if not source.exists():
        raise PromptError("no such file", where=source, fix="Check the path")
    if source.is_dir():
        return {path: _prompt_in(source, slide_name(path)) for path in paths}
    if len(paths) > 1 and options.prompts is not None:
        raise PromptError(
            "one prompt file cannot serve several slides", where=source, fix="Give a folder with one file per slide"
        )
    return dict.fromkeys(paths, source)


def _prompt_in(folder: Path, name: str) -> Path:
    for suffix in (".geojson", ".geojson.gz", ".json", ".zip"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return folder / f"{name}.geojson"  # reported as missing when the slide's turn comes


def _assign_ids(paths: Sequence[Path], ledger: Ledger, reporter: Reporter) -> dict[Path, str]:
    """A folder name per slide; slides of one name are told apart by a hash of their path.

    A slide keeps the id that an earlier run gave it, so that adding a namesake later does not move results.
    """
    from wsi_pipeline.slides.slide import slide_name

    ids = {path: known for path in paths if (known := ledger.id_of(str(path)))}
    taken = {row.id for row in ledger.slides()}
    fresh = [path for path in paths if path not in ids]
    names = [slide_name(path) for path in fresh]
    for path, name in zip(fresh, names, strict=True):
        if names.count(name) > 1 or name in taken:
            ids[path] = f"{name}-{sha256(str(path.absolute()).encode()).hexdigest()[:8]}"
            reporter.say(f"{path}: another slide is called {name} too; this one's results go to {ids[path]}")
        else:
            ids[path] = name
        ledger.add(ids[path], str(path))
    return ids


def _write_report(output: Path, ledger: Ledger, reporter: Reporter) -> None:
    from wsi_pipeline.export.report import write_report

    try:
        write_report(output, list(ledger.slides()))
    except OutputError as error:  # the results are there without it
        reporter.say(f"no report: {error}")


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
