"""QuPath points over a slide: training pairs side by side over all of them, with a click in each object."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.files import hash_file
from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.prompts.qupath import read_qupath_prompts
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.tiling.plan import PatchPair, TilePlan
from wsi_pipeline.tissue.detect import find_tissue
from wsi_pipeline.training.data.clicks import discs
from wsi_pipeline.training.data.outlines import class_of
from wsi_pipeline.training.data.slides import Annotated, FieldOfView, Origin, SlidePairs, annotated_px
from wsi_pipeline.workflow import QuPathPrompts, TissueSettings

MIN_CLICKS = 2
"""Clicks of a class from which something can be learned."""
SAME_OBJECT = 2.0
"""µm between two clicks that are taken for one."""
logger = logging.getLogger(__name__)


def open_points(
    path: Path | str,
    slide: Slide,
    field: FieldOfView | None = None,
    origin: Origin | None = None,
    settings: QuPathPrompts | None = None,
) -> SlidePairs:
    """Training pairs side by side over all points of a QuPath file.

    Only points count; of an annotation with several of them, the first one. Where the file has regions of interest,
    nothing outside of them counts as annotated. What is left out is said as a warning: other shapes, points outside of
    the slide or its tissue, and points so close to another that both must be in one object.

    Args:
        path: GeoJSON file.
        slide: the slide they were clicked on.
        field: how much of it a pair shows.
        origin: what the file does not say.
        settings: which classes are regions of interest or negative, and the class of points without one.

    Raises:
        GeoJSONError, PromptError: the file cannot be read, or belongs to another slide.
        DatasetError: it holds no points, none on tissue, or a single one of a class.
    """
    field, origin = field or FieldOfView(), origin or Origin()
    found = read_qupath_prompts(path, slide.info, settings or QuPathPrompts(source="qupath"), origin.qupath)
    for line in found.warnings:
        logger.warning("%s", line)
    clicked = [prompt for prompt in found.prompts if prompt.kind == "point"]
    _say(path, len(found.prompts) - len(clicked), "outlines or rectangles are no points and are left out")
    _say(path, sum(len(prompt.positive) > 1 for prompt in clicked), "annotations hold several points: the first counts")
    if not clicked:
        raise DatasetError("holds no points", where=path, fix="Click objects with the points tool, one annotation each")
    kept = _one_of_each_object(_on_tissue(clicked, slide, path), slide, path)
    names = [class_of(prompt) for prompt in kept]
    _check_classes(names, path)
    points = Points(np.stack([prompt.positive[0] for prompt in kept]), names, found.rois)
    grid = slide.working_grid(field.mpp or slide.info.resolution.mean)
    plan, digest = _plan(points.xy, grid, field.size), hash_file(Path(path))
    return SlidePairs(
        slide,
        [PatchPair.of_tile(tile, grid, field.context_factor) for tile in plan.tiles()],
        points,
        [origin.info(slide, f"tile {tile.index}", names, grid.mpp, digest) for tile in plan.tiles()],
    )


def _say(path: Path | str, count: int, what: str) -> None:
    if count:
        logger.warning("%s: %d %s", path, count, what)


def _on_tissue(clicked: Sequence[Prompt], slide: Slide, path: Path | str) -> list[Prompt]:
    tissue = find_tissue(slide, TissueSettings())
    points = np.stack([prompt.positive[0] for prompt in clicked])
    half = np.array([tissue.grid.to_level0.sx, tissue.grid.to_level0.sy]) / 2
    inside = tissue.shares(np.concatenate([points - half, points + half], axis=1)) > 0
    _say(path, int((~inside).sum()), "points lie outside the tissue and are left out")
    if not inside.any():
        raise DatasetError("has no point on tissue", where=path, fix="Check that the file belongs to this slide")
    return [prompt for prompt, keep in zip(clicked, inside, strict=True) if keep]


def _one_of_each_object(clicked: Sequence[Prompt], slide: Slide, path: Path | str) -> list[Prompt]:
    """The prompts without those whose point is that of an earlier one."""
    scale = np.array([slide.info.resolution.x, slide.info.resolution.y])
    points = np.stack([prompt.positive[0] for prompt in clicked]) * scale
    again = {later for _, later in cKDTree(points).query_pairs(SAME_OBJECT)}
    _say(path, len(again), "points are in an object that has one already and are left out")
    return [prompt for number, prompt in enumerate(clicked) if number not in again]


def _check_classes(names: Sequence[str], path: Path | str) -> None:
    counts = Counter(names)
    few = [name for name, count in sorted(counts.items()) if count < MIN_CLICKS]
    if few:
        fix = "Click more of each, or take them out"
        raise DatasetError(f"there is one point only of {', '.join(few)}", where=path, fix=fix)
    if len(counts) == 1:
        logger.warning("%s: all points are of class %s; it is told from the background alone", path, names[0])


def _plan(points: np.ndarray, grid: PixelGrid, size: int) -> TilePlan:
    """Tiles that have a click in their core."""
    keep = np.zeros(TilePlan.shape(grid, size, 0), bool)
    plan = TilePlan(grid, size, 0, keep, block=max(keep.shape))
    here = grid.to_level0.inverse().apply(points)
    first = np.array([plan.tile(0, 0).x, plan.tile(0, 0).y])
    columns, rows = np.floor((here - first) / size).astype(np.int64).T
    keep[rows.clip(0, keep.shape[0] - 1), columns.clip(0, keep.shape[1] - 1)] = True
    return plan


class Points:
    """Points on a slide as an ``Annotation``; ids count from 1 in the order of the file.

    Args:
        xy: (n, 2) float64, level-0 px.
        classes: of each.
        rois: what was annotated, level-0 px; None for everything.
    """

    def __init__(self, xy: np.ndarray, classes: Sequence[str], rois: BaseGeometry | None) -> None:
        self.xy, self._classes, self._rois = xy, tuple(classes), rois

    def on(self, to_level0: Affine2D, size: int) -> Annotated:
        """See ``Annotation``."""
        to_raster = to_level0.inverse()
        points = to_raster.apply(self.xy)
        seen = np.flatnonzero(((points >= 0) & (points < size)).all(axis=1))
        ids = discs(points[seen], seen + 1, (size, size)).astype(np.int64)
        known = annotated_px(self._rois, to_raster, size)
        return Annotated(ids, known, {number + 1: self._classes[number] for number in seen.tolist()})
