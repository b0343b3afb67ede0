"""A prompted run: every prompt gets a patch pair of its own size; answers keep the prompt's id and class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import shapely

from wsi_pipeline.errors import PromptError
from wsi_pipeline.prompts.prompt import Prompt, PromptSet, at_levels, points_as_boxes
from wsi_pipeline.run import tasks
from wsi_pipeline.run.dense import roi_of
from wsi_pipeline.run.finish import export, new_pyramid, write_levels
from wsi_pipeline.run.job import ObjectFacts, SlideJob
from wsi_pipeline.run.tissue_only import tissue_of, tissue_rows
from wsi_pipeline.run.walk import Walk
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.workflow import QuPathPrompts, SegmentSettings, TissueBoxPrompts

ISSUES_SHOWN = 20
"""Prompts without a whole answer that are named in the report; the rest is counted."""


def run(walk: Walk) -> int:
    """Run all stages of a prompted workflow; returns the number of objects."""
    from wsi_pipeline.segment.placement import Placement, group_prompts
    from wsi_pipeline.slides.slide import slide_handle

    workflow = walk.workflow
    tissue = tissue_of(walk)
    asked = _prompts(walk, tissue)
    walk.warnings += asked.warnings
    levels = workflow.segment.granularity if workflow.segment is not None else ()
    prompts = at_levels(_within(asked.prompts, walk), levels)
    grid = slide_handle(walk.info.path, walk.task.mpp).working_grid(workflow.mpp)
    classes = sorted({prompt.class_name for prompt in prompts if prompt.class_name})
    job = walk.job(grid, (None, *classes))
    size, share = walk.task.recipe.input_size, (workflow.segment or SegmentSettings()).object_share
    groups = group_prompts(prompts, Placement(grid, size, share, workflow.tiling.context_factor))
    parts = [[prompts[index] for index in group] for group in groups]
    found = walk.stage("segment", tasks.segment_annotations, _numbered(job, parts), len(parts), model=True)
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
    settings = walk.workflow.prompts
    if isinstance(settings, TissueBoxPrompts):
        from wsi_pipeline.prompts.tissue_boxes import tissue_box_prompts

        return tissue_box_prompts(tissue, settings)
    if not isinstance(settings, QuPathPrompts) or walk.task.prompts is None:
        raise PromptError("has no prompt file", where=walk.task.label, fix="Give --prompts annotations.geojson")
    from wsi_pipeline.prompts.qupath import read_qupath_prompts

    origin = walk.workflow.export.qupath_origin
    asked = read_qupath_prompts(walk.task.prompts, walk.info, settings, origin)
    return _that_the_model_takes(asked, settings, walk)


def _that_the_model_takes(asked: PromptSet, settings: QuPathPrompts, walk: Walk) -> PromptSet:
    from wsi_pipeline.models.registry import prompt_kinds
    from wsi_pipeline.run.checks import check_prompt_kinds

    segment = walk.workflow.segment
    if segment is None:
        return asked
    prompts = asked.prompts
    if settings.point_box is not None and "point" not in prompt_kinds(segment):
        scale = walk.info.resolution
        prompts = points_as_boxes(prompts, settings.point_box / scale.x, settings.point_box / scale.y)
    check_prompt_kinds(segment, {prompt.kind for prompt in prompts}, where=walk.task.prompts)
    return replace(asked, prompts=prompts)


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
        batch = ObjectBatch.load(job.batch_file(number), logits=False)
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
    placed = np.array([number for number, facts in sorted(found.items()) if "bounds" in facts], np.int64)
    left, top, right, bottom = np.array([found[n]["bounds"] for n in placed.tolist()], np.int64).reshape(-1, 4).T
    for number, (row, col) in enumerate(pyramid.shards(0)):
        x0, y0, x1, y1 = pyramid.shard_region(0, row, col)
        meeting = (left < x1) & (right > x0) & (top < y1) & (bottom > y0)
        yield number, (job, row, col, placed[meeting].tolist(), False)


def _note_issues(walk: Walk, found: dict[int, dict[str, Any]]) -> None:
    issues = [issue for _, facts in sorted(found.items()) for issue in facts.get("issues", [])]
    walk.warnings += [f"prompt {name} {outcome}: {reason}" for name, outcome, reason in issues[:ISSUES_SHOWN]]
    if len(issues) > ISSUES_SHOWN:
        walk.warnings.append(f"{len(issues) - ISSUES_SHOWN} more prompts without a whole answer")
