"""A dense run: a grid of tiles over the tissue, prompts found on every tile, objects merged across seams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.geometry import Region
from wsi_pipeline.run import tasks
from wsi_pipeline.run.finish import export, new_pyramid, write_levels
from wsi_pipeline.run.job import ObjectFacts, SlideJob, save_plan
from wsi_pipeline.run.slide import Walk
from wsi_pipeline.run.tissue_only import tissue_of, tissue_rows
from wsi_pipeline.stitching.ids import first_ids
from wsi_pipeline.stitching.seams import resolve
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.tissue.mask import TissueMask


def run(walk: Walk) -> int:
    """Run all stages of a dense workflow; returns the number of objects."""
    from wsi_pipeline.slides.slide import slide_handle

    workflow = walk.context.workflow
    tissue = tissue_of(walk)
    grid = slide_handle(walk.info.path, walk.task.mpp).working_grid(workflow.mpp)
    class_name = workflow.prompts.class_name if workflow.prompts else None
    job = walk.job(grid, (None, class_name) if class_name else (None,))
    plan = _plan(walk, job, tissue)
    save_plan(plan, job.plan_file)
    found = walk.stage("segment", tasks.segment_tiles, ((n, (job, n)) for n in range(plan.n_batches)), plan.n_batches)
    objects = _resolve_seams(walk, job, plan, found)
    objects.save(job.objects_file)
    pyramid = new_pyramid(job, {})
    shards = pyramid.shards(0)
    walk.stage("stitch", tasks.stitch_shard, _shard_tasks(job, plan), len(shards))
    write_levels(walk, job)
    numbers = _vectorize(walk, job)
    annotations = tissue_rows(tissue, walk.info, walk.identity) if workflow.export.tissue_annotations else None
    return export(walk, job, [job.row_file(number) for number in numbers], annotations).rows


def _plan(walk: Walk, job: SlideJob, tissue: TissueMask) -> TilePlan:
    tiling, size = job.workflow.tiling, walk.context.input_size
    # even, so that the centres of all tiles, and with them the low patches, lie on one raster
    overlap = 2 * round(tiling.overlap.px(job.grid.mpp) / 2)
    if overlap > size // 2:
        raise WorkflowError(
            f"an overlap of {overlap} px is more than half of the model's {size} px tiles",
            where="tiling.overlap",
            fix=f"Give at most {size // 2} px, or a coarser mpp",
        )
    keep = tissue.keep_tiles(job.grid, size, overlap, tiling.min_tissue)
    plan = TilePlan(job.grid, size, overlap, keep, max(1, round(tiling.batch**0.5)))
    roi = roi_of(walk)
    return plan if roi is None else _within(plan, roi)


def roi_of(walk: Walk) -> Region | None:
    """The rectangle the run is limited to, level-0 px."""
    return None if walk.context.roi is None else Region(*walk.context.roi)


def _within(plan: TilePlan, roi: Region) -> TilePlan:
    """The same tiles, of which only those are kept whose core meets a rectangle of level-0 px."""
    x0, y0, x1, y1 = plan.grid.to_level0.inverse().apply(np.array(roi.bounds).reshape(2, 2)).ravel()
    keep = np.zeros_like(plan.keep)
    for row, col in np.argwhere(plan.keep).tolist():
        left, top, right, bottom = plan.tile(row, col).core
        keep[row, col] = left < x1 and right > x0 and top < y1 and bottom > y0
    return TilePlan(plan.grid, plan.size, plan.overlap, keep, plan.block)


def _resolve_seams(walk: Walk, job: SlideJob, plan: TilePlan, found: dict[int, dict[str, Any]]) -> ObjectFacts:
    """Decide what becomes of every object; only arrays of numbers are held here, never a mask."""
    tiles = np.array([tile for facts in found.values() for tile in facts["tiles"]], np.int64)
    counts = np.array([count for facts in found.values() for count in facts["counts"]], np.int64)
    first = first_ids(tiles, counts, plan.rows * plan.cols)
    merge_iou = job.workflow.stitch.merge_iou
    walk.stage(
        "seams", tasks.find_seams, ((n, (job, n, first, merge_iou)) for n in range(plan.n_batches)), plan.n_batches
    )
    n = int(counts.sum())
    owner = np.zeros(n + 1, bool)
    inside = np.ones(n + 1, bool)
    columns: dict[str, np.ndarray] = {
        "iou": np.zeros(n + 1, np.float32),
        "stability": np.zeros(n + 1, np.float32),
        "detection": np.zeros(n + 1, np.float32),
        "class_id": np.zeros(n + 1, np.int16),
        "tile": np.full(n + 1, -1, np.int32),
    }
    edges = []
    roi = roi_of(walk)
    for number in range(plan.n_batches):
        with np.load(job.seam_file(number), allow_pickle=False) as data:
            ids = data["ids"]
            owner[ids] = data["owner"]
            edges.append(data["edges"])
            for name, column in columns.items():
                column[ids] = data[name]
            if roi is not None:
                inside[ids] = _inside(job.grid.to_level0.apply(data["center"]), roi)
    root = resolve(np.concatenate(edges) if edges else np.zeros((0, 3), np.int64), owner[1:], columns["iou"][1:])
    root[~inside[root]] = 0
    return ObjectFacts(root=root, first=first, **columns)


def _inside(xy: np.ndarray, roi: Region) -> np.ndarray:
    x0, y0, x1, y1 = roi.bounds
    return np.asarray((xy >= (x0, y0)).all(axis=1) & (xy < (x1, y1)).all(axis=1))


def _shard_tasks(job: SlideJob, plan: TilePlan) -> Iterator[tuple[int, tuple[Any, ...]]]:
    from wsi_pipeline.stitching.ngff import MaskPyramid

    pyramid = MaskPyramid.open(job.pyramid)
    for number, (row, col) in enumerate(pyramid.shards(0)):
        batches = plan.batches_meeting(*pyramid.shard_region(0, row, col))
        yield number, (job, row, col, batches, True)


def _vectorize(walk: Walk, job: SlideJob) -> list[int]:
    """Trace every chunk, then write the rows of the objects each chunk owns; returns the chunks."""
    from wsi_pipeline.vectorize.chunks import ChunkFacts
    from wsi_pipeline.vectorize.plan import plan_assembly

    numbers = list(range(len(job.chunk_grid)))
    walk.stage("trace", tasks.trace, ((n, (job, n)) for n in numbers), len(numbers))
    assembly = plan_assembly(ChunkFacts.load(job.outline_file(n)) for n in numbers)
    walk.stage("outline", tasks.write_rows, ((n, (job, n, assembly.task(n))) for n in numbers), len(numbers))
    return numbers
