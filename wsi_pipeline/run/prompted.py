"""A prompted run: every prompt gets a patch pair of its own size; answers keep the prompt's id and class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely

from wsi_pipeline.errors import PromptError
from wsi_pipeline.prompts.prompt import Prompt, PromptSet
from wsi_pipeline.run import tasks
from wsi_pipeline.run.dense import roi_of
from wsi_pipeline.run.finish import export, new_pyramid, write_levels
from wsi_pipeline.run.job import ObjectFacts, SlideJob
from wsi_pipeline.run.slide import Walk
from wsi_pipeline.run.tissue_only import tissue_of, tissue_rows
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.workflow import QuPathPrompts, TissueBoxPrompts

ISSUES_SHOWN = 20
"""Prompts without a whole answer that are named in the report; the rest is counted."""


def run(walk: Walk) -> int:
    """Run all stages of a prompted workflow; returns the number of objects."""
    from wsi_pipeline.segment.placement import Placement, group_prompts
    from wsi_pipeline.slides.slide import slide_handle

    workflow = walk.context.workflow
    if workflow.segment is None:
        raise ValueError("a prompted run needs a segment section")
    tissue = tissue_of(walk)
    asked = _prompts(walk, tissue)
    walk.warnings += asked.warnings
    prompts = _within(asked.prompts, walk)
    grid = slide_handle(walk.info.path, walk.task.mpp).working_grid(workflow.mpp)
    classes = sorted({prompt.class_name for prompt in prompts if prompt.class_name})
    job = walk.job(grid, (None, *classes))
    size, share = walk.context.input_size, workflow.segment.object_share
    groups = group_prompts(prompts, Placement(grid, size, share, workflow.tiling.context_factor))
    parts = [[prompts[index] for index in group] for group in groups]
    found = walk.stage("segment", tasks.segment_annotations, _numbered(job, parts), len(parts))
    _note_issues(walk, found)
    _object_facts(job, found).save(job.objects_file)
    pyramid = new_pyramid(job, asked.class_colors)
    walk.stage("stitch", tasks.stitch_shard, _shard_tasks(job, found), len(pyramid.shards(0)))
    write_levels(walk, job)
    walk.stage("outline", tasks.write_prompt_rows, _numbered(job, parts), len(parts))
    annotations = tissue_rows(tissue, walk.info, walk.identity) if workflow.export.tissue_annotations else None
    rows = [job.row_file(number) for number in range(len(parts))]
    return export(walk, job, rows, annotations, asked.class_colors).rows


def _prompts(walk: Walk, tissue: TissueMask) -> PromptSet:
    settings = walk.context.workflow.prompts
    if isinstance(settings, TissueBoxPrompts):
        from wsi_pipeline.prompts.tissue_boxes import tissue_box_prompts

        return tissue_box_prompts(tissue, settings)
    if not isinstance(settings, QuPathPrompts) or walk.task.prompts is None:
        raise PromptError("has no prompt file", where=walk.task.path, fix="Give --prompts annotations.geojson")
    from wsi_pipeline.models.registry import check_prompt_kinds
    from wsi_pipeline.prompts.qupath import read_qupath_prompts

    origin = walk.context.workflow.export.qupath_origin
    asked = read_qupath_prompts(walk.task.prompts, walk.info, settings, origin)
    if walk.context.workflow.segment is not None:
        kinds = {prompt.kind for prompt in asked.prompts}
        check_prompt_kinds(walk.context.workflow.segment, kinds, where=walk.task.prompts)
    return asked


def _within(prompts: list[Prompt], walk: Walk) -> list[Prompt]:
    """The prompts that meet the rectangle the run is limited to."""
    roi = roi_of(walk)
    if roi is None:
        return prompts
    window = shapely.box(*roi.bounds)
    return [prompt for prompt in prompts if prompt.geometry.intersects(window)]


def _numbered(job: SlideJob, parts: list[list[Prompt]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    for number, prompts in enumerate(parts):
        yield number, (job, number, prompts)


def _object_facts(job: SlideJob, found: dict[int, dict[str, Any]]) -> ObjectFacts:
    """Answers are never merged: what a person outlined twice is two objects."""
    from wsi_pipeline.segment.objects import ObjectBatch

    numbers = sorted(found)
    counts = np.array([found[number]["objects"] for number in numbers], np.int64)
    first = 1 + np.concatenate([[0], np.cumsum(counts)])
    columns: dict[str, list[np.ndarray]] = {name: [] for name in tasks.FACTS}
    for number in numbers:
        batch = ObjectBatch.load(job.batch_file(number))
        for name, column in columns.items():
            column.append(getattr(batch, name))
    n = int(counts.sum())
    joined = {
        name: np.concatenate([np.zeros(1, column[0].dtype), *column]) if column else np.zeros(1)
        for name, column in columns.items()
    }
    return ObjectFacts(root=np.arange(n + 1, dtype=np.uint32), first=first, **joined)


def _shard_tasks(job: SlideJob, found: dict[int, dict[str, Any]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    from wsi_pipeline.stitching.ngff import MaskPyramid

    pyramid = MaskPyramid.open(job.pyramid)
    placed = [(number, facts["bounds"]) for number, facts in sorted(found.items()) if "bounds" in facts]
    for number, (row, col) in enumerate(pyramid.shards(0)):
        x0, y0, x1, y1 = pyramid.shard_region(0, row, col)
        batches = [n for n, (a, b, c, d) in placed if a < x1 and c > x0 and b < y1 and d > y0]
        yield number, (job, row, col, batches, False)


def _note_issues(walk: Walk, found: dict[int, dict[str, Any]]) -> None:
    issues = [issue for _, facts in sorted(found.items()) for issue in facts.get("issues", [])]
    walk.warnings += [f"prompt {name} {outcome}: {reason}" for name, outcome, reason in issues[:ISSUES_SHOWN]]
    if len(issues) > ISSUES_SHOWN:
        walk.warnings.append(f"{len(issues) - ISSUES_SHOWN} more prompts without a whole answer")
