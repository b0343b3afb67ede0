"""One slide, from the file to its finished folder, walking the stages from left to right."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsi_pipeline import __version__
from wsi_pipeline.files import beside, hash_file, writing
from wsi_pipeline.run import dense, prompted, tissue_only
from wsi_pipeline.run.ledger import Journal, State
from wsi_pipeline.run.provenance import fingerprint_of, read_json, write_json
from wsi_pipeline.run.walk import SCRATCH, RunContext, SlideTask, Walk
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.slides.staging import RemoteFile, describe_remote, is_remote, release, stage
from wsi_pipeline.workflow import Workflow

PARTIAL = "**/*.partial"
RESULTS = (
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

FINGERPRINT, JOURNAL = "fingerprint", "tasks.jsonl"
"""Files of the scratch folder: what everything in it was made from, and which tasks are finished."""

_BEFORE_PYRAMID = ("segment", "seams")


def run_slide(task: SlideTask, context: RunContext) -> None:
    """Run one slide to its end, or find that it is there already.

    Raises:
        WsiPipelineError: this slide cannot be done, and why.
    """
    remote = describe_remote(task.source) if is_remote(task.source) else None
    info = _facts_before(task, remote) or _open(task, context)
    parts = _parts(task, context, info)
    fingerprint = fingerprint_of(parts)
    finished = read_json(task.output / "slide.json")
    if finished is not None and finished.get("fingerprint") == fingerprint:
        _keep(task, context, fingerprint, finished)
        return
    if remote is not None:  # it may be known without having been fetched
        info = _open(task, context)
    journal = _prepare(task, context, fingerprint, finished)
    try:
        walk = Walk(task, context, info, journal, fingerprint, _identity(parts), warnings=list(info.warnings))
        if walk.workflow.prompts is None:
            objects = tissue_only.run(walk)
        elif walk.workflow.prompted:
            objects = prompted.run(walk)
        else:
            objects = dense.run(walk)
    finally:
        journal.close()
    _finish(walk, objects, remote)


def forget_tasks(folder: Path) -> None:
    """Have the next run of a slide ask all tasks again; what they left and is whole is found by them."""
    (folder / SCRATCH / JOURNAL).unlink(missing_ok=True)


def _open(task: SlideTask, context: RunContext) -> SlideInfo:
    """The slide's facts; a remote one is brought here, by a worker, first."""
    from wsi_pipeline.slides.slide import open_slide

    path = task.source
    if is_remote(path):
        context.reporter.start(task.id, "stage", 0, 1)
        path = str(context.flow.call(stage, task.source, context.staging, order=task.order))
    with open_slide(path, mpp=task.mpp) as slide:
        return slide.info


def _facts_before(task: SlideTask, remote: RemoteFile | None) -> SlideInfo | None:
    """What an earlier run found out about a remote slide that is the same still, so that it need not be fetched."""
    finished = read_json(task.output / "slide.json")
    if remote is None or finished is None or finished.get("remote") != asdict(remote):
        return None
    info = SlideInfo.from_dict(finished["slide"])
    told = info.resolution.x if info.mpp_source == "user" else None
    return info if task.mpp == told else None


def _parts(task: SlideTask, context: RunContext, info: SlideInfo) -> dict[str, Any]:
    """Everything the results follow from: where it differs, old results do not count."""
    recipe = task.recipe
    tissue = recipe.workflow.tissue.mask
    return {
        "wsi_pipeline": __version__,
        "workflow": workflow_facts(recipe.workflow),
        "weights": recipe.weights,
        "dtypes": dict(recipe.dtypes),
        "threads": context.threads,
        "slide": info.fingerprint,
        "mpp": [info.resolution.x, info.resolution.y],
        "roi": context.roi,
        "prompts": hash_file(task.prompts) if task.prompts and task.prompts.is_file() else None,
        "tissue": hash_file(tissue) if tissue and tissue.is_file() else None,
    }


def workflow_facts(workflow: Workflow) -> dict[str, Any]:
    """A workflow's settings; what it learned is known by the digest of the weights, however and wherever it did."""
    learned: dict[str, Any] = {} if workflow.learn is None else {"segment": {"weights"}}
    return workflow.model_dump(mode="json", by_alias=True, exclude={"learn": True} | learned)


def _identity(parts: dict[str, Any]) -> str:
    """Of what decides which objects there are: neither how work is cut up nor what is said of them changes an id."""
    workflow = {key: dict(value) if isinstance(value, dict) else value for key, value in parts["workflow"].items()}
    for section in ("name", "description", "recognise", "vectorize", "export"):
        del workflow[section]
    del workflow["tiling"]["batch"], workflow["stitch"]["chunk"], workflow["stitch"]["shard"]
    kept = {key: value for key, value in parts.items() if key != "wsi_pipeline"}
    kept["weights"] = [one for one in parts.get("weights", []) if one.get("stage") != "recognise"]
    kept["dtypes"] = {stage: dtype for stage, dtype in parts.get("dtypes", {}).items() if stage != "recognise"}
    return fingerprint_of(kept | {"workflow": workflow})


def _keep(task: SlideTask, context: RunContext, fingerprint: str, finished: dict[str, Any]) -> None:
    """Leave a finished slide as it is; the ledger may not know of it, as its marker is what counts."""
    state: State = "empty" if finished.get("state") == "empty" else "done"
    context.ledger.set_state(task.id, state, fingerprint=fingerprint, **_numbers(finished))
    context.reporter.finish(task.id, state, reason="finished by an earlier run")


def _prepare(task: SlideTask, context: RunContext, fingerprint: str, finished: dict[str, Any] | None) -> Journal:
    """Make the slide's folder ready, with nothing in it that was made from something else."""
    scratch = task.output / SCRATCH
    made_from = scratch / FINGERPRINT
    begun = made_from.read_text(encoding="ascii", errors="replace") if made_from.is_file() else None
    if begun != fingerprint:
        if begun is not None or finished is not None:
            context.reporter.say(f"{task.id}: the slide, settings or weights changed since; it is done anew")
        shutil.rmtree(scratch, ignore_errors=True)
        _remove(task.output, RESULTS)
    _remove(task.output, ("slide.json", "error.txt", PARTIAL))  # of a run that failed, of one that was killed
    for folder in ("objects", "seams", "outlines", "rows"):
        with writing(scratch / folder):
            (scratch / folder).mkdir(parents=True, exist_ok=True)
    with beside(made_from) as partial:
        partial.write_text(fingerprint, encoding="ascii")
    context.ledger.set_state(task.id, "running", fingerprint=fingerprint)
    lost = not (task.output / "masks.ome.zarr").is_dir()  # somebody removed it: what was finished in it is not
    return Journal(scratch / JOURNAL, keep=_BEFORE_PYRAMID if lost else None)


def _remove(folder: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _finish(walk: Walk, objects: int, remote: RemoteFile | None) -> None:
    """Write the completion marker last, and clear up."""
    task, context, info = walk.task, walk.context, walk.info
    state: State = "done" if objects else "empty"
    # workers whose coordinator was killed live on for a moment, and leave what they were writing
    _remove(task.output, (PARTIAL,))
    facts = {
        "state": state,
        "fingerprint": walk.fingerprint,
        "settings": dict(task.recipe.settings),
        "slide": asdict(info),
        "mpp": [info.resolution.x, info.resolution.y],
        "mpp_source": info.mpp_source,
        "objects": objects,
        "warnings": walk.warnings,
        "tasks": walk.counts,
        "seconds": {name: round(value, 3) for name, value in walk.seconds.items()},
    }
    write_json(task.output / "slide.json", facts if remote is None else facts | {"remote": asdict(remote)})
    numbers = _numbers(facts)
    context.ledger.set_state(task.id, state, **numbers)
    if not context.keep_scratch:
        shutil.rmtree(walk.scratch, ignore_errors=True)
    if remote is not None:
        release(task.source, context.staging)
    context.reporter.finish(task.id, state, objects=objects, tiles=numbers["tiles"], output=str(task.output))


def _numbers(finished: dict[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a finished slide, for rates and sums."""
    encoded = finished.get("tasks", {}).get("segment", {}).get("patches", {})
    return {
        "seconds": round(sum(finished.get("seconds", {}).values()), 3),
        "tiles": int(sum(encoded.values())) or None,
        "objects": finished.get("objects"),
    }
