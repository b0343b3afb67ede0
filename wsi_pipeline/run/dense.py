"""A dense run: a grid of tiles over the tissue, prompts found on every tile, objects merged across seams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.geometry import Region
from wsi_pipeline.granularity import level_classes
from wsi_pipeline.models.roles import SLIDE_PATCHES
from wsi_pipeline.prompts.facts import learns_slide, prompter_class_names
from wsi_pipeline.run import tasks
from wsi_pipeline.run.finish import export, new_pyramid, write_levels
from wsi_pipeline.run.job import SlideJob, save_first, save_plan
from wsi_pipeline.run.resolve import resolve_objects
from wsi_pipeline.run.tissue_only import Survey, survey
from wsi_pipeline.run.walk import Walk
from wsi_pipeline.stitching.ids import first_ids
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.workflow import SegmentModelPrompts, Workflow


def run(walk: Walk) -> int:
    """Run all stages of a dense workflow; returns the number of objects."""
    from wsi_pipeline.slides.slide import slide_handle

    workflow = walk.workflow
    grid = slide_handle(walk.info.path, walk.task.mpp).working_grid(workflow.mpp)
    job = walk.job(grid, (None, *_class_names(workflow)))
    everything, annotations = _plan(walk, job)
    roi = roi_of(walk)
    plan = everything if roi is None else _within(everything, roi)
    save_plan(plan, job.plan_file)
    if learns_slide(workflow):  # of the whole slide, so that a part of it gives what the whole would
        walk.once("look", tasks.look_at_slide, job, everything.spread(SLIDE_PATCHES))
    batches = ((n, (job, n)) for n in range(plan.n_batches))
    found = walk.stage("segment", tasks.segment_tiles, batches, plan.n_batches, model=True)
    _resolve_seams(walk, job, plan, found)
    pyramid = new_pyramid(job, {})
    shards = pyramid.shards(0)
    walk.stage("stitch", tasks.stitch_shard, _shard_tasks(job, plan), len(shards))
    write_levels(walk, job)
    numbers = _trace_wholes(walk, job, plan) if workflow.nested else _vectorize(walk, job)
    return export(walk, job, [job.row_file(number) for number in numbers], annotations).rows


def _class_names(workflow: Workflow) -> tuple[str, ...]:
    """Classes of the results, from class 1 on."""
    from wsi_pipeline.models.registry import class_names

    prompts, segment = workflow.prompts, workflow.segment
    if segment is not None and level_classes(segment.granularity):
        return level_classes(segment.granularity)
    if prompts is not None and prompts.class_name:
        return (prompts.class_name,)
    if isinstance(prompts, SegmentModelPrompts):
        return class_names(segment) if segment else ()
    return prompter_class_names(prompts)


def _plan(walk: Walk, job: SlideJob) -> tuple[TilePlan, pa.Table | None]:
    """All tiles on tissue, and tissue and artefacts as annotations where they are wanted."""
    tiling, size = job.workflow.tiling, walk.task.recipe.input_size
    # even, so that the centres of all tiles, and with them the low patches, lie on one raster
    overlap = 2 * round(tiling.overlap.px(job.grid.mpp) / 2)
    if overlap > size // 2:
        raise WorkflowError(
            f"an overlap of {overlap} px is more than half of the model's {size} px tiles",
            where="tiling.overlap",
            fix=f"Give at most {size // 2} px, or a coarser mpp",
        )
    found: Survey = walk.once("tissue", survey, job, size, overlap)
    walk.warnings += found.warnings
    plan = TilePlan(job.grid, size, overlap, found.keep, max(1, round(tiling.batch**0.5)))
    return plan, found.rows if job.workflow.export.tissue_annotations else None


def roi_of(walk: Walk) -> Region | None:
    """The rectangle the run is limited to, level-0 px."""
    return None if walk.context.roi is None else Region(*walk.context.roi)


def _within(plan: TilePlan, roi: Region) -> TilePlan:
    """The same tiles, of which only those are kept whose core meets a rectangle of level-0 px."""
    x0, y0, x1, y1 = plan.grid.to_level0.inverse().apply(np.array(roi.bounds).reshape(2, 2)).ravel()
    left, right = np.array([plan.tile(0, col).core[::2] for col in range(plan.cols)]).T
    top, bottom = np.array([plan.tile(row, 0).core[1::2] for row in range(plan.rows)]).T
    meets = ((top < y1) & (bottom > y0))[:, None] & (left < x1) & (right > x0)
    return TilePlan(plan.grid, plan.size, plan.overlap, plan.keep & meets, plan.block)


def _resolve_seams(walk: Walk, job: SlideJob, plan: TilePlan, found: dict[int, dict[str, Any]]) -> None:
    """Decide what becomes of every object, on a worker; here it is only known how many each tile has."""
    tiles = np.array([tile for facts in found.values() for tile in facts["tiles"]], np.int64)
    counts = np.array([count for facts in found.values() for count in facts["counts"]], np.int64)
    save_first(first_ids(tiles, counts, plan.rows * plan.cols), job.first_file)
    walk.stage("seams", tasks.find_seams, ((n, (job, n)) for n in range(plan.n_batches)), plan.n_batches)
    walk.once("resolve", resolve_objects, job, plan.n_batches, int(counts.sum()), roi_of(walk))


def _shard_tasks(job: SlideJob, plan: TilePlan) -> Iterator[tuple[int, tuple[Any, ...]]]:
    from wsi_pipeline.stitching.ngff import MaskPyramid

    pyramid = MaskPyramid.open(job.pyramid)
    for number, (row, col) in enumerate(pyramid.shards(0)):
        batches = plan.batches_meeting(*pyramid.shard_region(0, row, col))
        yield number, (job, row, col, batches, True)


def _trace_wholes(walk: Walk, job: SlideJob, plan: TilePlan) -> list[int]:
    """Trace every object by itself, as nested ones hide each other in the labels; returns the batches."""
    numbers = list(range(plan.n_batches))
    walk.stage("outline", tasks.write_nested_rows, ((n, (job, n)) for n in numbers), len(numbers))
    return numbers


def _vectorize(walk: Walk, job: SlideJob) -> list[int]:
    """Trace every chunk, then write the rows of the objects each chunk owns; returns the chunks."""
    numbers = list(range(len(job.chunk_grid)))
    walk.stage("trace", tasks.trace, ((n, (job, n)) for n in numbers), len(numbers))
    walk.once("assemble", tasks.plan_outlines, job)
    walk.stage("outline", tasks.write_rows, ((n, (job, n)) for n in numbers), len(numbers))
    return numbers
