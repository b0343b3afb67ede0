"""QuPath annotations over a slide: a training pair around each outline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.files import hash_file
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.prompts.qupath import read_qupath_prompts
from wsi_pipeline.rasterise import paint
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.tiling.plan import PatchPair
from wsi_pipeline.training.data.slides import Annotated, FieldOfView, Origin, SlidePairs, annotated_px
from wsi_pipeline.workflow import QuPathPrompts

UNCLASSIFIED = "unclassified"

logger = logging.getLogger(__name__)


def open_outlines(
    path: Path | str,
    slide: Slide,
    field: FieldOfView | None = None,
    origin: Origin | None = None,
    settings: QuPathPrompts | None = None,
) -> SlidePairs:
    """A training pair around the middle of every outline of a QuPath file, with all outlines on both patches.

    Points and rectangles say where an object is and not how far it reaches, so they are left out, with a warning.
    Where the file has regions of interest, nothing outside of them counts as annotated.

    Args:
        path: GeoJSON file.
        slide: the slide it was drawn on.
        field: how much of it a pair shows.
        origin: what the file does not say.
        settings: which classes are regions of interest or negative, and the class of objects without one.

    Raises:
        GeoJSONError, PromptError: the file cannot be read, or belongs to another slide.
        DatasetError: it holds no outlines.
    """
    field, origin = field or FieldOfView(), origin or Origin()
    found = read_qupath_prompts(path, slide.info, settings or QuPathPrompts(source="qupath"), origin.qupath)
    drawn = [prompt for prompt in found.prompts if prompt.kind == "mask"]
    left_out = len(found.prompts) - len(drawn)
    if not drawn:
        raise DatasetError(
            f"holds no outlines ({left_out} points, lines or rectangles)",
            where=path,
            fix="Draw outlines with the brush, wand or polygon tool",
        )
    if left_out:
        logger.warning("%s: %d points, lines or rectangles are no outlines and are left out", path, left_out)
    outlines = Outlines(drawn, found.rois)
    mpp, digest = field.mpp or slide.info.resolution.mean, hash_file(Path(path))
    return SlidePairs(
        slide,
        [_pair_around(prompt, slide, field, mpp) for prompt in drawn],
        outlines,
        [origin.info(slide, prompt.id, [class_of(prompt)], mpp, digest) for prompt in drawn],
    )


def _pair_around(prompt: Prompt, slide: Slide, field: FieldOfView, mpp: float) -> PatchPair:
    x0, y0, x1, y1 = prompt.box
    scale = mpp / slide.info.resolution.x, mpp / slide.info.resolution.y
    return PatchPair.around(
        (x0 + x1) / 2, (y0 + y1) / 2, scale=scale, size=field.size, context_factor=field.context_factor
    )


def class_of(prompt: Prompt) -> str:
    """Class of an annotation, ``UNCLASSIFIED`` where it has none."""
    return prompt.class_name or UNCLASSIFIED


class Outlines:
    """Outlines of objects, level-0 px, as an ``Annotation``; where some overlap, the smallest one is on top.

    Args:
        prompts: the objects, all of them areas.
        rois: what was annotated; None for everything.
    """

    def __init__(self, prompts: Sequence[Prompt], rois: BaseGeometry | None) -> None:
        self._shapes = np.array([prompt.geometry for prompt in prompts], dtype=object)
        self._classes = [class_of(prompt) for prompt in prompts]
        self._areas = shapely.area(self._shapes)
        self._tree = shapely.STRtree(self._shapes)
        self._rois = rois

    def on(self, to_level0: Affine2D, size: int) -> Annotated:
        """See ``Annotation``; ids count from 1 in the order of the file."""
        to_raster = to_level0.inverse()
        seen = np.sort(self._tree.query(shapely.box(*to_level0.region(size, size).bounds)))
        ids = np.zeros((size, size), np.int64)
        for number in seen[np.argsort(-self._areas[seen], kind="stable")]:
            paint(ids, self._shapes[number], to_raster, int(number) + 1)
        known = annotated_px(self._rois, to_raster, size)
        return Annotated(ids, known, {number + 1: self._classes[number] for number in seen.tolist()})
