"""One box around every connected piece of tissue."""

from __future__ import annotations

import uuid

import numpy as np
import shapely
from scipy import ndimage

from wsi_pipeline.geometry import Region
from wsi_pipeline.prompts.prompt import Prompt, PromptSet
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.workflow import TissueBoxPrompts

_NAMESPACE = uuid.UUID("8c5b5f0e-61a5-4a58-8d5a-6f5d1c1f7b52")


def tissue_box_prompts(tissue: TissueMask, settings: TissueBoxPrompts) -> PromptSet:
    """A box prompt for each 8-connected piece of tissue, from top to bottom.

    Args:
        tissue: the slide's tissue.
        settings: margin around a piece (µm; the box ends with the mask's area) and the class of the results.

    Returns:
        Prompts whose ids follow from their boxes alone; none for a slide without tissue.
    """
    labels, _ = ndimage.label(tissue.tissue, np.ones((3, 3), bool))
    boxes = [_box(rows, cols, tissue, settings.margin) for rows, cols in ndimage.find_objects(labels)]
    boxes.sort(key=lambda box: (box.y, box.x, box.height, box.width))
    return PromptSet([_prompt(box, settings) for box in boxes])


def _box(rows: slice, cols: slice, tissue: TissueMask, margin: float) -> Region:
    grid = tissue.grid
    reach = margin / grid.mpp
    corners = [[cols.start - reach, rows.start - reach], [cols.stop + reach, rows.stop + reach]]
    (x0, y0), (x1, y1) = grid.to_level0.apply(np.clip(corners, 0, (grid.width, grid.height)))
    return Region.from_bounds(float(x0), float(y0), float(x1), float(y1))


def _prompt(box: Region, settings: TissueBoxPrompts) -> Prompt:
    geometry = shapely.box(*box.bounds)
    name = ",".join(f"{value:.3f}" for value in box.bounds)
    return Prompt(id=str(uuid.uuid5(_NAMESPACE, name)), kind="box", geometry=geometry, class_name=settings.class_name)
