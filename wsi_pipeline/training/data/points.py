"""Clicks as training data: of every object no more is known than one point inside it.

A click is a small disc in the label image of a sample, so that it moves with the image when that is augmented.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.prompts.qupath import read_qupath_prompts
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.tiling.plan import PatchPair, TilePlan
from wsi_pipeline.tissue.detect import find_tissue
from wsi_pipeline.training.data.outlines import UNCLASSIFIED
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo, SampleSource
from wsi_pipeline.training.data.slides import Annotated, FieldOfView, Origin, SlidePairs
from wsi_pipeline.training.domain_target import depths
from wsi_pipeline.workflow import QuPathPrompts, TissueSettings

RADIUS = 4.0
"""Of the disc of a click, px of its sample: some of it is left where an augmentation shrinks the sample by half."""
MIN_CLICKS = 2
"""Clicks of a class from which something can be learned."""
SAME_OBJECT = 2.0
"""µm between two clicks that are taken for one."""
_INNER, _SPREAD = 0.5, 0.25
"""Clicks lie this deep in their object or deeper, and how far they spread from its deepest px, as shares of that."""

logger = logging.getLogger(__name__)


class Clicked:
    """Samples with outlines of which only a click inside each object is left, the same one every time.

    Args:
        source: the samples; those whose objects are clicks already stay as they are, but for a px or two.
        seed: of the clicks.
    """

    def __init__(self, source: SampleSource, seed: int) -> None:
        self._source, self._seed = source, seed

    @property
    def infos(self) -> Sequence[SampleInfo]:
        return self._source.infos

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        points, numbers = draw_clicks(sample.high, np.random.default_rng((self._seed, index)))
        return replace(sample, high=replace(sample.high, labels=discs(points, numbers, sample.high.labels.shape)))


def draw_clicks(picture: Picture, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A click near the middle of each object, as people click.

    Args:
        picture: the objects; what is not known of them does not count.
        random: what is drawn with.

    Returns:
        (n, 2) float32 (x, y) px, and (n,) labels of the objects, ascending.
    """
    depth = depths(picture.labels, picture.known)
    with np.errstate(divide="ignore"):
        weight = np.where((depth >= _INNER) & picture.known, -(((1 - depth) / _SPREAD) ** 2) / 2, -np.inf)
    # the largest of logarithms of weights with such noise is drawn by these weights
    drawn = weight + random.gumbel(size=depth.shape)
    numbers = np.unique(picture.labels[np.isfinite(drawn) & (picture.labels > 0)])
    if not len(numbers):
        return np.zeros((0, 2), np.float32), numbers
    places = np.array(ndimage.maximum_position(drawn, picture.labels, numbers))
    return (places[:, ::-1] + 0.5).astype(np.float32), numbers


def discs(points: np.ndarray, numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) int32 with a disc of each number around its point (n, 2); later ones are on top."""
    labels = np.zeros(shape, np.int32)
    reach = int(np.ceil(RADIUS))
    for (x, y), number in zip(points, numbers, strict=True):
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        part = labels[top : int(y) + reach + 1, left : int(x) + reach + 1]
        down, across = (np.arange(length) + 0.5 for length in part.shape)
        part[np.hypot(down[:, None] + top - y, across + left - x) <= RADIUS] = number
    return labels


def clicks_on(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """The middles of discs (n, 2) float32 (x, y) px, and their labels (n,), ascending; those cut in half are gone."""
    labels = np.where(picture.known, picture.labels, 0)
    areas = np.bincount(labels.ravel(), minlength=2)
    areas[0] = 0
    numbers = np.flatnonzero(areas > areas.max() / 2)
    if not len(numbers):
        return np.zeros((0, 2), np.float32), numbers
    middles = np.array(ndimage.center_of_mass(labels > 0, labels, numbers)).reshape(-1, 2)
    return (middles[:, ::-1] + 0.5).astype(np.float32), numbers


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
    found = read_qupath_prompts(path, slide.info, settings or QuPathPrompts(source="qupath"))
    for line in found.warnings:
        logger.warning("%s", line)
    clicked = [prompt for prompt in found.prompts if prompt.kind == "point"]
    _say(path, len(found.prompts) - len(clicked), "outlines or rectangles are no points and are left out")
    _say(path, sum(len(prompt.positive) > 1 for prompt in clicked), "annotations hold several points: the first counts")
    if not clicked:
        raise DatasetError("holds no points", where=path, fix="Click objects with the points tool, one annotation each")
    kept = _one_of_each_object(_on_tissue(clicked, slide, path), slide, path)
    names = [prompt.class_name or UNCLASSIFIED for prompt in kept]
    _check_classes(names, path)
    clicks = Clicks(np.stack([prompt.positive[0] for prompt in kept]), names, found.rois)
    grid = slide.working_grid(field.mpp or slide.info.resolution.mean)
    plan = _plan(clicks.points, grid, field.size)
    return SlidePairs(
        slide,
        [PatchPair.of_tile(tile, grid, field.context_factor) for tile in plan.tiles()],
        clicks,
        [origin.info(slide, f"tile {tile.index}", names, grid.mpp) for tile in plan.tiles()],
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


class Clicks:
    """Clicks on a slide as an ``Annotation``; ids count from 1 in the order of the file.

    Args:
        points: (n, 2) float64 (x, y), level-0 px.
        classes: of each.
        rois: what was annotated, level-0 px; None for everything.
    """

    def __init__(self, points: np.ndarray, classes: Sequence[str], rois: object | None) -> None:
        self.points, self._classes, self._rois = points, tuple(classes), rois

    def on(self, to_level0: Affine2D, size: int) -> Annotated:
        """See ``Annotation``."""
        to_raster = to_level0.inverse()
        points = to_raster.apply(self.points)
        seen = np.flatnonzero(((points >= 0) & (points < size)).all(axis=1))
        ids = discs(points[seen], seen + 1, (size, size)).astype(np.int64)
        known = np.ones((size, size), bool) if self._rois is None else rasterise(self._rois, to_raster, size, size)
        return Annotated(ids, known, {number + 1: self._classes[number] for number in seen.tolist()})
