"""What workers do: each function is one task, reads and writes files of its job, and returns small facts.

Every task may run twice (a worker was lost, a run was killed and resumed): the second time it finds its file
finished and only reports it, or writes the same bytes again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from wsi_pipeline.arrays import save_arrays
from wsi_pipeline.run.job import (
    ObjectFacts,
    SlideJob,
    assembly_of,
    first_of,
    objects_of,
    plan_of,
    pyramid_of,
    save_seen,
)
from wsi_pipeline.run.worker_models import (
    ModelClock,
    known_of,
    model_clock,
    prompter_of,
    recogniser_of,
    refiner_of,
    segmenter_of,
    slide_aware_of,
)
from wsi_pipeline.segment.memory import Fitting, fitting
from wsi_pipeline.segment.objects import KEPT_COARSE, REFINED, ObjectBatch
from wsi_pipeline.stitching.ids import object_ids
from wsi_pipeline.workflow import QuPathPrompts

if TYPE_CHECKING:
    import pyarrow as pa

    from wsi_pipeline.models.roles import SlideAware
    from wsi_pipeline.prompts.prompt import Prompt
    from wsi_pipeline.tiling.plan import Tile

FACTS = ("iou", "stability", "detection", "class_id", "tile", "refined")
"""Columns of ``ObjectBatch`` that the coordinator gathers for all objects of a slide."""


def look_at_slide(job: SlideJob, tiles: Sequence[Tile]) -> None:
    """Show tiles to the model that wants to know the slide before it is asked, and keep what it saw."""
    from wsi_pipeline.run.look import look

    model = slide_aware_of(job)
    if model is not None and not job.seen_file.exists():
        factor = job.workflow.tiling.context_factor
        save_seen(look(cast("SlideAware", model), job.open(), job.grid, tiles, factor), job.seen_file)


def segment_tiles(job: SlideJob, number: int) -> dict[str, Any]:
    """Pass 1 of a dense run: the objects of one batch of tiles."""
    from wsi_pipeline.segment.dense import read_batch, segment_batch

    path = job.batch_file(number)
    if path.exists():
        return _batch_facts(ObjectBatch.load(path, logits=False)) | {"reused": True}
    segmenter, refine, plan, slide = segmenter_of(job), refiner_of(job), plan_of(job), job.open()
    prompter, recognise = prompter_of(job), recogniser_of(job)
    if segmenter is None:
        raise ValueError(f"workflow {job.workflow.name} has no segment section")
    started = time.perf_counter()
    looking: list[Any] = [segmenter, *([prompter] if prompter else []), *([refine.refiner] if refine else [])]
    looking += [recognise.recogniser] if recognise else []
    low = any(one.uses_low_patch for one in looking)
    images = read_batch(slide, plan, number, low=low, context_factor=job.workflow.tiling.context_factor)
    read = time.perf_counter()
    with model_clock() as clock, fitting(known := known_of(job)):
        batch = segment_batch(
            slide,
            plan,
            number,
            segmenter,
            prompter,
            job.workflow,
            class_id=_class_of_all(job),
            refine=refine,
            recognise=recognise,
            images=images,
        )
    batch.save(path)
    return _batch_facts(batch) | _spent(clock, {"read": read - started}, since=read) | _fits(job, known)


def segment_annotations(job: SlideJob, number: int, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Pass 1 of a prompted run: the answers to a few prompts that lie near each other."""
    from wsi_pipeline.segment.prompted import segment_prompts

    path = job.batch_file(number)
    issues_file = path.with_suffix(".json")
    if path.exists():
        return _batch_facts(ObjectBatch.load(path, logits=False)) | {
            "reused": True,
            "issues": _read_issues(issues_file),
        }
    segmenter, refine = segmenter_of(job), refiner_of(job)
    started = time.perf_counter()
    with model_clock() as clock, fitting(known := known_of(job)):
        class_ids = {name: index for index, name in enumerate(job.classes) if name is not None}
        batch, issues = segment_prompts(
            job.open(),
            prompts,
            job.grid,
            segmenter,
            job.workflow,
            class_ids,
            refine=refine,
            recognise=recogniser_of(job),
            fallback=_fallback(job),
        )
    _write_issues(issues_file, issues)
    batch.save(path)
    facts = _batch_facts(batch) | _spent(clock, {}, since=started) | _fits(job, known)
    return facts | {"issues": [list(issue) for issue in issues]}


def find_seams(job: SlideJob, number: int) -> dict[str, Any]:
    """What one batch's objects have to do with those of other tiles, and their facts for ``resolve_objects``."""
    from wsi_pipeline.stitching.seams import find_conflicts, later_neighbours, owned

    plan, first = plan_of(job), first_of(job)
    around = [number, *later_neighbours(number, plan)]
    batches = {n: ObjectBatch.load(job.batch_file(n), logits=False) for n in around}
    ids = {n: object_ids(batch, first) for n, batch in batches.items()}
    batch = batches[number]
    seams = {
        "ids": ids[number],
        "edges": find_conflicts(number, batches, plan, ids, job.workflow.stitch.merge_iou, nested=job.workflow.nested),
        "owner": owned(batch, plan),
        "center": (batch.bbox[:, :2] + batch.bbox[:, 2:]) / 2,
    }
    save_arrays(job.seam_file(number), seams | {name: getattr(batch, name) for name in FACTS})
    return {}


def stitch_shard(job: SlideJob, row: int, col: int, batches: Sequence[int], blended: bool) -> dict[str, Any]:
    """Pass 2: one shard of level 0, from the batches that can see any of it; where nobody looked nothing is written."""
    if not batches:
        return {}
    from wsi_pipeline.stitching.blend import blend
    from wsi_pipeline.stitching.paint import paint

    pyramid = pyramid_of(job)
    region = pyramid.shard_region(0, row, col)
    loaded = [ObjectBatch.load(job.batch_file(number), logits=False) for number in batches]
    objects = objects_of(job)
    ids = [objects.ids_of(batch, number) for batch, number in zip(loaded, batches, strict=True)]
    instance, class_ = paint(region, loaded, ids, objects.root, objects.class_id, nested=job.workflow.nested)
    del loaded
    probability = None
    if blended:  # the logits of one batch after the other: together they are larger than everything else
        probability = blend(region, (ObjectBatch.load(job.batch_file(n)) for n in batches), plan_of(job).overlap)
    pyramid.write_shard(row, col, instance, class_, probability)
    return {}


def build_level(job: SlideJob, level: int, row: int, col: int) -> dict[str, Any]:
    """One shard of a coarser level."""
    pyramid_of(job).build_shard(level, row, col)
    return {}


def trace(job: SlideJob, number: int) -> dict[str, Any]:
    """The outlines of one chunk of the instance labels."""
    from wsi_pipeline.vectorize.chunks import trace_chunk

    path = job.outline_file(number)
    if not path.exists():
        grid, tolerance = job.chunk_grid, job.simplify_px
        labels = pyramid_of(job).read_labels("instance", *grid.read_bounds(number, tolerance))
        trace_chunk(labels, grid, number, tolerance).save(path)
    return {}


def plan_outlines(job: SlideJob) -> None:
    """Find the objects that lie in several chunks, and which chunk puts each of them together."""
    from wsi_pipeline.vectorize.chunks import ChunkFacts
    from wsi_pipeline.vectorize.plan import plan_assembly

    facts = (ChunkFacts.load(job.outline_file(number)) for number in range(len(job.chunk_grid)))
    plan_assembly(facts).save(job.assembly_file)


def write_rows(job: SlideJob, number: int) -> dict[str, Any]:
    """The table rows of the objects that one chunk owns."""
    from wsi_pipeline.export.table import write_fragment
    from wsi_pipeline.run.rows import rows_of_labels
    from wsi_pipeline.vectorize.assemble import assemble_chunk
    from wsi_pipeline.vectorize.chunks import ChunkOutlines

    found = assemble_chunk(
        assembly_of(job).task(number),
        lambda index: ChunkOutlines.load(job.outline_file(index)),
        min_area=job.min_area_px,
        fill_holes=job.fill_holes_px,
    )
    objects = objects_of(job)
    table = rows_of_labels(job, found, objects)
    write_fragment(job.row_file(number), table)
    return _row_facts(job, objects, table)


def write_nested_rows(job: SlideJob, number: int) -> dict[str, Any]:
    """The table rows of the objects that one batch of a nested dense run found first, each traced by itself."""
    from wsi_pipeline.export.table import write_fragment
    from wsi_pipeline.run.rows import rows_of_wholes
    from wsi_pipeline.stitching.wholes import members_elsewhere, wholes_of

    objects, plan = objects_of(job), plan_of(job)
    batches = {number: ObjectBatch.load(job.batch_file(number), logits=False)}
    ids = {number: objects.ids_of(batches[number], number)}
    others = members_elsewhere(ids[number], objects.root)
    for other in np.unique(plan.batches_of(objects.tile[others].astype(np.int64))).tolist():
        if other != number:
            batches[other] = ObjectBatch.load(job.batch_file(other), logits=False)
            ids[other] = objects.ids_of(batches[other], other)
    table = rows_of_wholes(job, list(wholes_of(number, batches, ids, objects.root)), objects)
    write_fragment(job.row_file(number), table)
    return _row_facts(job, objects, table)


def write_prompt_rows(job: SlideJob, number: int, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The table rows of one task of a prompted run; objects may overlap, so each is traced by itself."""
    from wsi_pipeline.export.table import write_fragment
    from wsi_pipeline.run.rows import rows_of_prompts

    batch = ObjectBatch.load(job.batch_file(number), logits=False)
    objects = objects_of(job)
    table = rows_of_prompts(job, batch, objects.ids_of(batch, number), prompts)
    write_fragment(job.row_file(number), table)
    return _row_facts(job, objects, table)


def _row_facts(job: SlideJob, objects: ObjectFacts, table: pa.Table) -> dict[str, Any]:
    """How many objects were written, and what the refine and the recognise stage made of them."""
    facts: dict[str, Any] = {"objects": len(table)}
    counts = np.bincount(objects.refined[table.column("label").to_numpy()], minlength=KEPT_COARSE + 1)
    if counts[REFINED] or counts[KEPT_COARSE]:
        facts["refine"] = {"refined": int(counts[REFINED]), "kept coarse": int(counts[KEPT_COARSE])}
    if job.recognised:
        classes = Counter(name or "no class" for name in table.column("class").to_pylist())
        facts["classes"] = dict(sorted(classes.items()))
    return facts


def _class_of_all(job: SlideJob) -> int:
    """Class of every object where the workflow names one for all."""
    prompts = job.workflow.prompts
    return job.classes.index(prompts.class_name) if prompts and prompts.class_name else 0


def _fallback(job: SlideJob) -> Literal["keep", "drop"]:
    settings = job.workflow.prompts
    return settings.fallback if isinstance(settings, QuPathPrompts) else "drop"


def _spent(clock: ModelClock, seconds: dict[str, float], *, since: float) -> dict[str, Any]:
    """Where a task spent its time, and how many patches were encoded for it."""
    other = time.perf_counter() - since - clock.spent
    parts = seconds | {"model": clock.seconds, "other": other}
    return {
        "seconds": {key: round(value, 4) for key, value in parts.items()},
        "patches": {"encoded": clock.encoded, "recalled": clock.recalled},
    }


def _fits(job: SlideJob, known: Fitting) -> dict[str, int]:
    """What was found out about memory, for other workers and later runs."""
    return {} if known.most is None or known.most == job.fits else {"fits": known.most}


def _batch_facts(batch: ObjectBatch) -> dict[str, Any]:
    tiles, counts = np.unique(batch.tile, return_counts=True)
    facts: dict[str, Any] = {"objects": len(batch), "tiles": tiles.tolist(), "counts": counts.tolist()}
    if len(batch):
        facts["bounds"] = [*batch.bbox[:, :2].min(axis=0).tolist(), *batch.bbox[:, 2:].max(axis=0).tolist()]
    return facts


def _write_issues(path: Any, issues: Sequence[Any]) -> None:
    from wsi_pipeline.run.provenance import write_json

    write_json(path, {"issues": [list(issue) for issue in issues]})


def _read_issues(path: Any) -> list[list[str]]:
    from wsi_pipeline.run.provenance import read_json

    return (read_json(path) or {}).get("issues", [])
