"""The tissue of a slide, by the method its workflow names."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.geometry import PixelGrid
from wsi_pipeline.tissue.classical import clean_tissue, find_borders, stain_mask
from wsi_pipeline.tissue.focus import find_out_of_focus
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.tissue.own_mask import read_own_mask
from wsi_pipeline.tissue.pen import find_pen
from wsi_pipeline.workflow import TissueSettings

if TYPE_CHECKING:
    from wsi_pipeline.qupath.origin import Origin
    from wsi_pipeline.slides.info import SlideInfo
    from wsi_pipeline.slides.slide import Slide

_log = logging.getLogger(__name__)

MAX_OVERVIEW = 64_000_000
"""Most pixels of an overview; a larger slide is looked at more coarsely."""
_STRIP = 4_000_000

PEN, OUT_OF_FOCUS = "pen", "out of focus"


def find_tissue(slide: Slide, settings: TissueSettings, *, qupath_origin: Origin = "auto") -> TissueMask:
    """Where the tissue of a slide is.

    Args:
        slide: the open slide.
        settings: the workflow's ``tissue`` section.
        qupath_origin: how QuPath opened the slide, where the mask is a QuPath file.

    Returns:
        The mask over the slide's bounds; empty when there is no tissue, which is no error.

    Raises:
        WorkflowError, GeoJSONError: ``method: mask`` and the mask is missing, unreadable or does not fit.
        SlideError: the slide cannot be read.
    """
    grid = overview_grid(slide.info, settings.mpp)
    if settings.method == "mask":
        return read_own_mask(settings.mask, slide.info, grid, qupath_origin)
    if settings.method == "none":
        return TissueMask(grid, np.ones((grid.height, grid.width), bool))
    return _find_classical(slide, grid, settings)


def overview_grid(info: SlideInfo, mpp: float) -> PixelGrid:
    """The grid over the slide's bounds at ``mpp``, coarser for a giant slide, never finer than level 0."""
    area = info.bounds.width * info.resolution.x * info.bounds.height * info.resolution.y
    mpp = max(mpp, info.resolution.mean, math.sqrt(area / MAX_OVERVIEW))
    return PixelGrid.over(info.bounds, info.resolution, mpp)


def read_overview(slide: Slide, grid: PixelGrid) -> np.ndarray:
    """(h, w, 3) uint8 RGB of the overview, read in strips so that no reader holds it at a finer level."""
    image = np.empty((grid.height, grid.width, 3), np.uint8)
    rows = max(1, _STRIP // grid.width)
    for y in range(0, grid.height, rows):
        height = min(rows, grid.height - y)
        image[y : y + height] = slide.read_grid(grid.to_level0.shifted(0, y), (grid.width, height))
    return image


def _find_classical(slide: Slide, grid: PixelGrid, settings: TissueSettings) -> TissueMask:
    image = read_overview(slide, grid)
    borders = find_borders(image, grid.mpp)
    stained = stain_mask(image) & ~borders
    artefacts: dict[str, np.ndarray] = {}
    if settings.artefacts:
        pen = find_pen(image, grid.mpp, stained, borders)
        stained &= ~pen
        artefacts[PEN] = pen
    del image
    tissue = clean_tissue(stained, grid.mpp, settings)
    if settings.artefacts:
        tissue &= ~artefacts[PEN]  # closing may have reached over it
        blurred = find_out_of_focus(slide, grid, tissue)
        tissue &= ~blurred
        artefacts[OUT_OF_FOCUS] = blurred
    found = {name: mask for name, mask in artefacts.items() if mask.any()}
    mask = TissueMask(grid, tissue, found, _warnings(tissue, found))
    _log.debug("%s: %.2f mm² of tissue at %.3g µm/px", slide.info.name, mask.area_um2 / 1e6, grid.mpp)
    return mask


def _warnings(tissue: np.ndarray, artefacts: dict[str, np.ndarray]) -> tuple[str, ...]:
    if not tissue.any():
        return ("no tissue found",)
    blurred = artefacts.get(OUT_OF_FOCUS)
    if blurred is None:
        return ()
    share = blurred.sum() / (blurred.sum() + tissue.sum())
    return (f"{share:.0%} of the tissue is out of focus and left out",)
