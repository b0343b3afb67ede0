"""One slide, from the file to its finished folder, walking the stages from left to right."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline import __version__
from wsi_pipeline.run import dense, prompted, tissue_only
from wsi_pipeline.run.ledger import State
from wsi_pipeline.run.provenance import file_sha256, fingerprint_of, read_json, write_json
from wsi_pipeline.run.walk import SCRATCH, RunContext, SlideTask, Walk

if TYPE_CHECKING:
    from wsi_pipeline.slides.info import SlideInfo

_PARTIAL = "**/*.partial"
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


def run_slide(task: SlideTask, context: RunContext) -> None:
    """Run one slide to its end, or find that it is there already.

    Raises:
        WsiPipelineError: this slide cannot be done, and why.
    """
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
    if context.workflow.prompts is None:
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
        "dtypes": dict(context.dtypes),
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
    _remove(task.output, ("error.txt", _PARTIAL))  # of a run that failed, of one that was killed
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
    # workers whose coordinator was killed live on for a moment, and leave what they were writing
    _remove(task.output, (_PARTIAL,))
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
