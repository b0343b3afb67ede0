"""The examples as features: what lies inside them, what is known to be something else, and what is left open (§3.6).

Features of an archive's examples are the same for all its slides, so they are kept in a file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields

import numpy as np
import shapely
import torch
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import OutputError, PromptError
from wsi_pipeline.geometry import Affine2D, Region
from wsi_pipeline.models.matcher.examples import Outline, classes_of
from wsi_pipeline.models.matcher.features import FeatureEncoder, mean_of, unit
from wsi_pipeline.models.matcher.presence import calibrate
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.roles import SLIDE_PATCHES
from wsi_pipeline.models.tensor_store import TensorStore
from wsi_pipeline.models.weights import cache_folder
from wsi_pipeline.rasterise import coverage
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.spread import spread
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.tissue.detect import find_tissue
from wsi_pipeline.workflow import TissueSettings

OUTSIDE, UNKNOWN = 0, -1
"""Labels of patches that are known to be something else, and of those of which nothing is known."""
MOST_CROPS = 32
"""Crops of one outline, spread over it; further outlines of a class with as many on a slide get none of their own."""
MOST_PATCHES = 1024
"""Patches of a class, and twice as many outside: of more, those that differ most from each other are taken."""
_VERSION = 1
_MOSTLY = 0.5
"""Least share of tissue of a patch that says what a slide looks like."""
_COARSER = 1.1
"""A slide so much coarser than the run shows less than the run sees."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """R patches of the examples.

    Attributes:
        features: (R, C) float32 of unit length.
        labels: (R,) int64: n inside an example of the n-th class, ``OUTSIDE`` or ``UNKNOWN``.
        radius: (K,) of each of the K classes: radius of a circle as large as its middle outline, in patches.
        threshold, surroundings: (K,) see ``Calibration``.
    """

    features: np.ndarray
    labels: np.ndarray
    radius: np.ndarray
    threshold: np.ndarray
    surroundings: np.ndarray

    def inside(self, class_number: int) -> np.ndarray:
        """(R,) bool."""
        return self.labels == class_number

    @property
    def known(self) -> np.ndarray:
        """(R,) bool: patches of which it is known what they are, other classes' among them."""
        return self.labels != UNKNOWN


@dataclass(frozen=True, slots=True)
class Crop:
    """A patch of a slide that shows examples.

    Attributes:
        slide: where it is.
        to_level0: maps its px to level-0 px.
        size: its side, px.
    """

    slide: Slide
    to_level0: Affine2D
    size: int

    @property
    def region(self) -> Region:
        return self.to_level0.region(self.size, self.size)

    def pixels(self) -> np.ndarray:
        """(S, S, 3) uint8 RGB."""
        return self.slide.read_grid(self.to_level0, (self.size, self.size))


def reference_mpp(mpp: float) -> float:
    """The µm per px at which examples are read for slides worked on at ``mpp``: one of eight for each doubling.

    An archive's slides differ by a few percent; they share one set of features, whichever slide comes first.
    """
    return 2 ** (round(8 * math.log2(mpp)) / 8)


def load_references(
    outlines: Sequence[Outline], features: FeatureEncoder, settings: MatcherSettings, *, size: int, mpp: float
) -> ReferenceSet:
    """Features of the examples, from the cache or computed and left there.

    Args:
        outlines: the examples.
        features: gives the features.
        settings: how examples are read.
        size: side of the patches, px.
        mpp: µm per px of the patches.

    Raises:
        SlideError: a slide is damaged there.
        PromptError: the examples of a class are too small.
    """
    for slide in {one.slide.info.path: one.slide for one in outlines}.values():
        _warn_if_coarse(slide, mpp)
    store, key = TensorStore(cache_folder() / "references"), _digest(outlines, features, settings, size, mpp)
    kept = store.read(key)
    if kept is not None and kept.keys() == {one.name for one in fields(ReferenceSet)}:
        return ReferenceSet(**{name: tensor.numpy() for name, tensor in kept.items()})
    found = make_references(outlines, features, settings, size=size, mpp=mpp)
    with suppress(OutputError):  # a cache that cannot be written only costs time
        store.write(key, {one.name: torch.from_numpy(getattr(found, one.name)) for one in fields(found)})
    return found


def make_references(
    outlines: Sequence[Outline], features: FeatureEncoder, settings: MatcherSettings, *, size: int, mpp: float
) -> ReferenceSet:
    """Features of the examples; see ``load_references``."""
    by_slide: dict[str, list[Outline]] = {}
    for outline in outlines:
        by_slide.setdefault(outline.slide.info.path, []).append(outline)
    classes, seen, labels = classes_of(outlines), [], []
    for mine in by_slide.values():
        slide = mine[0].slide
        crops = list(crops_of(mine, size, mpp))
        levels = features.levels(np.stack([crop.pixels() for crop in crops]))
        seen.append(unit(levels, _mean(slide, levels, features, settings, size, mpp)))
        labels += [labels_of(crop, mine, classes, features.grid, settings) for crop in crops]
    found, kinds = np.concatenate(seen), np.stack(labels)
    for number, name in enumerate(classes, start=1):
        if not (kinds == number).any():
            said = f"no example of {name} is large enough to be seen at {mpp:g} µm per px"
            raise PromptError(said, where="matcher.examples", fix="Outline a larger one, or set a finer mpp")
    compared = _thinned(found.reshape(-1, found.shape[-1]), kinds.ravel(), len(classes))
    calibration = calibrate(found, kinds, compared, len(classes))
    radius = _radii(outlines, classes) / (mpp * size / features.grid)
    return ReferenceSet(found.reshape(-1, found.shape[-1])[compared], kinds.ravel()[compared], radius, *calibration)


def crops_of(outlines: Sequence[Outline], size: int, mpp: float) -> Iterator[Crop]:
    """Patches of one slide that together show its outlines; one that earlier patches show whole needs none of its own.

    Args:
        outlines: of the slide.
        size, mpp: of the patches.
    """
    shown: BaseGeometry = shapely.Polygon()
    count: Counter[str] = Counter()
    for outline in outlines:
        if count[outline.class_name] >= MOST_CROPS or shown.covers(outline.geometry):
            continue
        for crop in _crops_of_one(outline, size, mpp):
            count[outline.class_name] += 1
            shown = shapely.union(shown, shapely.box(*crop.region.bounds))
            yield crop


def _crops_of_one(outline: Outline, size: int, mpp: float) -> list[Crop]:
    """One crop with the outline in its middle, or as many as cover it, evenly spread."""
    info = outline.slide.info
    sx, sy = mpp / info.resolution.x, mpp / info.resolution.y
    x0, y0, x1, y1 = outline.geometry.bounds
    corners = [
        (x, y)
        for y in _starts(y0, y1, size * sy, info.height)
        for x in _starts(x0, x1, size * sx, info.width)
        if outline.geometry.intersects(shapely.box(x, y, x + size * sx, y + size * sy))
    ]
    return [Crop(outline.slide, Affine2D(sx, sy, *corner), size) for corner in spread(corners, MOST_CROPS)]


def _starts(first: float, last: float, side: float, end: float) -> list[float]:
    """Where crops along an axis begin, within the slide if it is large enough."""
    count = math.ceil((last - first) / side - 1e-6)
    middles = first + (np.arange(count) + 0.5) * (last - first) / count
    return np.clip(middles - side / 2, 0, max(0.0, end - side)).tolist()


def labels_of(
    crop: Crop, outlines: Sequence[Outline], classes: Sequence[str], grid: int, settings: MatcherSettings
) -> np.ndarray:
    """(g * g,) int64 labels of a crop's patches, see ``ReferenceSet``; a patch is inside when half of it is.

    Args:
        crop: on the slide of the outlines.
        outlines: all of that slide.
        classes: of all examples.
        grid: patches along the crop's side.
        settings: width of the rings around outlines.
    """
    cell = crop.size / grid
    to_cells = Affine2D(1 / cell, 1 / cell).after(crop.to_level0.inverse())
    px = 1 / _microns(crop.slide)
    window = shapely.box(*crop.region.expanded((settings.context + settings.unknown) * px).bounds)
    near = [outline for outline in outlines if outline.geometry.intersects(window)]
    together = shapely.union_all([outline.geometry for outline in near])
    info = crop.slide.info
    seen = together.buffer(settings.context * px).intersection(shapely.box(0, 0, info.width, info.height))
    labels = np.where(coverage(seen, to_cells, grid) > 0.5, OUTSIDE, UNKNOWN)
    labels[coverage(together.buffer(settings.unknown * px), to_cells, grid) > 0] = UNKNOWN
    for outline in sorted(near, key=lambda one: -one.geometry.area):  # what lies within another one is seen, too
        share = coverage(outline.geometry, to_cells, grid)
        labels[share >= min(0.5, float(share.max()) or 1.0)] = classes.index(outline.class_name) + 1
    return labels.ravel()


def spread_patches(slide: Slide, size: int, mpp: float, count: int = SLIDE_PATCHES) -> np.ndarray:
    """(B, S, S, 3) uint8 RGB patches of tissue, spread over a slide; none where there is no tissue.

    Args:
        slide: the slide.
        size, mpp: of the patches, about.
        count: most of them.
    """
    grid = slide.working_grid(mpp)
    keep = find_tissue(slide, TissueSettings(artefacts=False)).keep_tiles(grid, size, 0, _MOSTLY)
    tiles = TilePlan(grid, size, 0, keep, block=1).spread(count)
    images = [slide.read_grid(grid.to_level0.shifted(tile.x, tile.y), (size, size)) for tile in tiles]
    return np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)


def farthest(features: np.ndarray, count: int) -> np.ndarray:
    """(count,) numbers of the features (N, C) that differ most from each other, beginning with the most usual one."""
    chosen = [int((features @ features.mean(axis=0)).argmax())]
    nearest = features @ features[chosen[0]]
    while len(chosen) < min(count, len(features)):
        chosen.append(int(nearest.argmin()))
        np.maximum(nearest, features @ features[chosen[-1]], out=nearest)
    return np.array(chosen)


def _mean(
    slide: Slide,
    levels: Sequence[np.ndarray],
    features: FeatureEncoder,
    settings: MatcherSettings,
    size: int,
    mpp: float,
) -> np.ndarray | None:
    """What is subtracted from the features of crops of a slide."""
    if settings.centre == "none":
        return None
    if settings.centre == "slide":
        patches = spread_patches(slide, size, mpp)
        if len(patches):
            return mean_of(features.levels(patches)).mean(axis=0)
    return mean_of(levels)


def _thinned(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Numbers of the patches that targets are compared with: of each label no more than takes reasonable time."""
    kept = []
    for label in range(classes + 1):
        rows, most = np.flatnonzero(labels == label), MOST_PATCHES if label else 2 * MOST_PATCHES
        kept.append(rows[farthest(features[rows], most)] if len(rows) > most else rows)
    return np.sort(np.concatenate(kept))


def _radii(outlines: Sequence[Outline], classes: Sequence[str]) -> np.ndarray:
    """(K,) µm: radius of a circle as large as the middle outline of each class."""
    areas = [
        [one.geometry.area * _microns(one.slide) ** 2 for one in outlines if one.class_name == name] for name in classes
    ]
    return np.array([math.sqrt(float(np.median(some)) / math.pi) for some in areas])


def _microns(slide: Slide) -> float:
    """Of a level-0 px."""
    return slide.info.resolution.mean


def _warn_if_coarse(slide: Slide, mpp: float) -> None:
    own = _microns(slide)
    if own > _COARSER * mpp:
        logger.warning(
            "%s: the example has %.3g µm per px and is looked for at %.3g; it shows less than there is to see",
            slide.info.name,
            own,
            mpp,
        )


def _digest(
    outlines: Sequence[Outline], features: FeatureEncoder, settings: MatcherSettings, size: int, mpp: float
) -> str:
    """Of all that the features of examples depend on."""
    examples = [
        (one.slide.info.fingerprint, one.slide.info.resolution.x, one.slide.info.resolution.y, one.class_name)
        for one in outlines
    ]
    how = (_VERSION, features.signature, features.grid, settings.centre, settings.context, settings.unknown, size, mpp)
    digest = hashlib.blake2b(json.dumps([examples, how]).encode(), digest_size=16)
    for outline in outlines:
        digest.update(shapely.to_wkb(outline.geometry))
    return digest.hexdigest()
