"""Every prompt of a slide at once, for people to look at; runs make them tile by tile instead."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import shapely

from wsi_pipeline.errors import PromptError
from wsi_pipeline.export.table import object_table
from wsi_pipeline.geometry import PixelGrid
from wsi_pipeline.models.roles import SLIDE_PATCHES, Detections, SlideAware
from wsi_pipeline.prompts.facts import prompter_class_names
from wsi_pipeline.prompts.prompt import Prompt, PromptSet
from wsi_pipeline.prompts.sources import build_prompter
from wsi_pipeline.run.look import look
from wsi_pipeline.tiling.plan import PatchPair, Tile, TilePlan
from wsi_pipeline.tiling.read import read_pairs
from wsi_pipeline.tissue.detect import find_tissue
from wsi_pipeline.workflow import QuPathPrompts, TissueBoxPrompts, Workflow

if TYPE_CHECKING:
    from wsi_pipeline.slides.slide import Slide

TILE = 1024
"""Side of the tiles that a prompter which takes any is shown here, px of the working grid."""

_NAMESPACE = uuid.UUID("0c0f9f0e-5d0f-4be1-9f3b-6f0a0c7d4f52")


def preview_prompts(slide: Slide, workflow: Workflow, file: Path | None) -> PromptSet:
    """What a workflow asks about on a slide.

    Args:
        slide: the slide.
        workflow: its ``prompts`` section counts.
        file: QuPath GeoJSON, where the section reads one.

    Raises:
        PromptError: the workflow asks nothing, or its prompt file is missing or unusable.
    """
    settings = workflow.prompts
    if settings is None:
        raise PromptError("asks nothing", where=workflow.name, fix="Give a workflow with a prompts section")
    if isinstance(settings, QuPathPrompts):
        from wsi_pipeline.prompts.qupath import read_qupath_prompts

        source = file or settings.file
        if source is None:
            raise PromptError("needs prompts", where=workflow.name, fix="Give --prompts annotations.geojson")
        return read_qupath_prompts(source, slide.info, settings, workflow.export.qupath_origin)
    tissue = find_tissue(slide, workflow.tissue)
    if isinstance(settings, TissueBoxPrompts):
        from wsi_pipeline.prompts.tissue_boxes import tissue_box_prompts

        return tissue_box_prompts(tissue, settings)
    grid = slide.working_grid(workflow.mpp)
    prompter = build_prompter(settings)
    size = prompter.input_size or TILE
    overlap = min(size // 2, round(workflow.tiling.overlap.px(grid.mpp)))
    keep = tissue.keep_tiles(grid, size, overlap, workflow.tiling.min_tissue)
    plan, factor = TilePlan(grid, size, overlap, keep, block=1), workflow.tiling.context_factor
    if isinstance(prompter, SlideAware) and prompter.learns_slide:
        prompter = prompter.knowing(look(prompter, slide, grid, plan.spread(SLIDE_PATCHES), factor))
    classes = (None, *prompter_class_names(settings))
    found: list[Prompt] = []
    for tile in plan.tiles():
        pair = PatchPair.of_tile(tile, grid, factor)
        images = read_pairs(slide, [pair], low=prompter.uses_low_patch)
        here = prompter.detect(images, mpp=grid.mpp)[0]
        of = np.zeros(len(here.scores), int) if here.classes is None else here.classes
        found += _owned(here, tile, grid, [settings.class_name or classes[number] for number in of])
    return PromptSet(found, warnings=list(tissue.warnings))


def _owned(found: Detections, tile: Tile, grid: PixelGrid, classes: Sequence[str | None]) -> Iterator[Prompt]:
    """The detections, of these classes, whose point lies in the tile's core, so that each comes once."""
    to_level0 = grid.to_level0.shifted(tile.x, tile.y)
    x0, y0, x1, y1 = tile.core
    on_grid = found.points + np.array([tile.x, tile.y])
    inside = ((on_grid >= (x0, y0)) & (on_grid < (x1, y1))).all(axis=1)
    for number in np.flatnonzero(inside).tolist():
        box, point = found.boxes[number], found.points[number]
        corners = to_level0.apply(box.reshape(2, 2)).ravel()
        middle = to_level0.apply(point)
        whole = bool(np.isfinite(corners).all())
        yield Prompt(
            id=str(uuid.uuid5(_NAMESPACE, f"{middle[0]:.2f} {middle[1]:.2f}")),
            kind="box" if whole else "point",
            geometry=shapely.box(*corners) if whole else shapely.Point(middle),
            positive=middle[None],
            class_name=classes[number],
        )


def prompt_rows(found: PromptSet) -> pa.Table:
    """Prompts as annotation rows of the object table."""
    return object_table(
        np.array([prompt.geometry for prompt in found.prompts], object),
        id=[prompt.id for prompt in found.prompts],
        **{"class": [prompt.class_name for prompt in found.prompts]},
        name=[prompt.name for prompt in found.prompts],
        object_type="annotation",
    )
