"""Nuclei on the haematoxylin channel of a patch: the prompter of the automatic workflow.

Haematoxylin absorbs red light, eosin hardly any, and a strong DAB stain absorbs all three channels; so a
weighted optical density shows blue and brown nuclei alike and hides eosin. A nucleus is a compact area that is
darker, in that density, than what surrounds it. All sizes are in µm and the patch is brought to one fixed
resolution first, so that the answer hardly depends on the resolution it was read at.

The parts are classical: optical density and stain vectors (Ruifrok & Johnston 2001), contrast against a local
background, a contour at a share of each nucleus' own height, and a watershed on the distance transform that
splits what touches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.segmentation import watershed

from wsi_pipeline.models.roles import Detections, PairImages
from wsi_pipeline.tissue.morphology import without_small_holes
from wsi_pipeline.workflow import NucleusDetectorPrompts

_DENSITY = np.minimum(-np.log10((np.arange(256, dtype=np.float32) + 1) / 256), 1.2)
"""Optical density (base 10) of each 8-bit intensity; near black it is nothing but noise, so it ends before."""


@dataclass(frozen=True, slots=True)
class NucleusParameters:
    """Tuned on the training tiles of annotated sets; lengths in µm, contrasts in optical density (base 10).

    Attributes:
        mpp: resolution the detector works at, µm per px.
        weights: weight of the red, green and blue optical density. Red light alone shows haematoxylin and DAB;
            taking some blue away hides collagen, erythrocytes and saffron.
        smooth: sigma of the blur that hides noise and chromatin texture.
        surround: sigma of the surroundings a nucleus is compared with.
        contrast: least density above the surroundings.
        density: least density at all.
        height: where a nucleus ends: this share of the way from its surroundings to its darkest part.
        seed_smooth: sigma of the blur of the distance transform, against seeds on bumps of the outline.
        seed_distance: a seed this share of its inscribed radius away from a larger one is part of that one.
        fill: least share of its own ellipse of inertia that a nucleus fills; below it is a tangle of fibres.
        hue: least red density of a nucleus as a share of its green density; eosin stays below.
        glass: density of glass, which ``hue`` does not count.
        full_score: contrast that scores 1 - 1/e.
    """

    mpp: float = 0.5
    weights: tuple[float, float, float] = (1.0, 0.0, -0.3)
    smooth: float = 0.4
    surround: float = 5.0
    contrast: float = 0.04
    density: float = 0.05
    height: float = 0.4
    seed_smooth: float = 1.0
    seed_distance: float = 0.9
    fill: float = 0.75
    hue: float = 0.3
    glass: float = 0.03
    full_score: float = 0.15


class NucleusDetector:
    """A ``Prompter`` without weights: boxes and inner points of nuclei in H&E and haematoxylin-DAB patches.

    Args:
        settings: diameters (µm, of the circle of equal area) and the threshold factor.
        parameters: the tuned constants.
    """

    input_size: int | None = None
    uses_low_patch = False

    def __init__(self, settings: NucleusDetectorPrompts, parameters: NucleusParameters | None = None) -> None:
        self.settings = settings
        self.parameters = parameters or NucleusParameters()

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """Nuclei of each high patch, from top to bottom; see ``Prompter``.

        A nucleus cut by the patch border counts from half the least diameter on.
        """
        return [self._detect_one(image, mpp) for image in pairs.high]

    def _detect_one(self, image: np.ndarray, mpp: float) -> Detections:
        colours, scale = optical_density(image, mpp, self.parameters)
        density = colours @ np.asarray(self.parameters.weights, np.float32)
        smooth = _blur(density, self.parameters.smooth, self.parameters)
        background = local_background(density, smooth, self.contrast, self.parameters)
        mask = self._nuclear_mask(smooth, background)
        labels, seeds = split_touching(mask, self._least_radius, self.parameters)
        return self._describe(labels, seeds, smooth - background, colours, scale)

    @property
    def contrast(self) -> float:
        """Least contrast after the user's threshold factor."""
        return self.parameters.contrast * self.settings.threshold

    @property
    def _least_radius(self) -> float:
        """px of the working resolution."""
        return max(0.5, self.settings.min_diameter / 2 / self.parameters.mpp)

    def _nuclear_mask(self, smooth: np.ndarray, background: np.ndarray) -> np.ndarray:
        p, radius = self.parameters, self._least_radius
        mask = (smooth > background + self.contrast) & (smooth > p.density * self.settings.threshold)
        side = max(3, int(1.5 * radius) | 1)
        peak = _blur(ndimage.maximum_filter(ndimage.grey_opening(smooth, 3), side), 2 * p.mpp, p)
        mask &= smooth > background + p.height * (peak - background)
        # A pale nucleus may be hollow, but a lumen ringed by nuclei is no nucleus.
        mask = without_small_holes(mask, np.pi * (self.settings.max_diameter / 4 / p.mpp) ** 2)
        return ndimage.binary_opening(mask, iterations=max(1, round(radius / 3)))

    def _describe(
        self, labels: np.ndarray, seeds: np.ndarray, rise: np.ndarray, colours: np.ndarray, scale: tuple[float, float]
    ) -> Detections:
        """Measure N labelled objects and keep what looks like a nucleus; ``scale`` is patch px per working px."""
        area, fill = _areas_and_fills(labels, len(seeds))
        mean, red, green = (_means(labels, values, area) for values in (rise, colours[..., 0], colours[..., 1]))
        slices = ndimage.find_objects(labels, len(seeds))
        boxes = np.array([(c.start, r.start, c.stop, r.stop) for r, c in slices], np.float64).reshape(-1, 4)
        height, width = labels.shape
        cut = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == (width, height)).any(axis=1)
        diameter = 2 * np.sqrt(area / np.pi) * self.parameters.mpp
        least = np.where(cut, 0.5, 1.0) * self.settings.min_diameter
        keep = (diameter >= least) & (diameter <= self.settings.max_diameter)
        keep &= (fill >= self.parameters.fill) & (mean >= self.contrast)
        keep &= red - self.parameters.glass >= self.parameters.hue * (green - self.parameters.glass)
        order = np.flatnonzero(keep)
        order = order[np.lexsort((boxes[order, 0], boxes[order, 1]))]
        return Detections(
            boxes=(boxes * np.tile(scale, 2))[order].astype(np.float32),
            scores=(1 - np.exp(-mean[order] / self.parameters.full_score)).astype(np.float32),
            points=((seeds[order, ::-1] + 0.5) * scale).astype(np.float32),
        )


def optical_density(image: np.ndarray, mpp: float, p: NucleusParameters) -> tuple[np.ndarray, tuple[float, float]]:
    """Optical density at the working resolution.

    Args:
        image: (H, W, 3) uint8 RGB at ``mpp``.
        mpp: µm per px.
        p: the constants.

    Returns:
        (h, w, 3) float32, and how many px of ``image`` one of its px measures along x and y.
    """
    height, width = image.shape[:2]
    size = max(1, round(width * mpp / p.mpp)), max(1, round(height * mpp / p.mpp))
    if size != (width, height):
        method = Image.Resampling.BOX if size[0] < width else Image.Resampling.BILINEAR
        image = np.asarray(Image.fromarray(image).resize(size, method))
    return _DENSITY[image], (width / size[0], height / size[1])


def local_background(density: np.ndarray, smooth: np.ndarray, contrast: float, p: NucleusParameters) -> np.ndarray:
    """(h, w) float32: density around each pixel with the nuclei left out, so that crowded nuclei stay visible."""
    dark = smooth > _blur(density, p.surround, p) + contrast / 2
    free = (~ndimage.binary_dilation(dark)).astype(np.float32)
    weight = _blur(free, p.surround, p)
    nearby = _blur(density * free, p.surround, p) / np.maximum(weight, 1e-3)
    anywhere = np.sum(density * free) / max(float(free.sum()), 1.0) if free.mean() > 0.02 else density.min()
    # Where hardly anything nearby is free of nuclei, the rest of the patch has to tell.
    trust = np.clip(10 * weight, 0, 1)
    return nearby * trust + np.float32(anywhere) * (1 - trust)


def split_touching(mask: np.ndarray, least_radius: float, p: NucleusParameters) -> tuple[np.ndarray, np.ndarray]:
    """One label per nucleus.

    Args:
        mask: (h, w) bool.
        least_radius: of a nucleus, px.
        p: the constants.

    Returns:
        (h, w) int32 labels 1 … N, 0 elsewhere, and (N, 2) int64 (row, column) of a pixel deep inside each.
    """
    # The patch's border is no outline: a nucleus it cuts is deepest there.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
    depth = np.where(mask, _blur(depth, p.seed_smooth, p), 0)
    peaks = (ndimage.maximum_filter(depth, 3) == depth) & (depth >= 0.35 * least_radius)
    seeds = _spaced(np.argwhere(peaks), depth, least_radius, p)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    return watershed(-depth, markers, mask=mask), seeds


def _spaced(seeds: np.ndarray, depth: np.ndarray, least_radius: float, p: NucleusParameters) -> np.ndarray:
    """Deepest first, the seeds that no deeper one lies close to; (N, 2) row and column."""
    if len(seeds) == 0:
        return seeds
    depths = depth[tuple(seeds.T)]
    order = np.lexsort((seeds[:, 1], seeds[:, 0], -depths))
    seeds, reach = seeds[order], np.maximum(p.seed_distance * depths[order], 0.8 * least_radius)
    near = cKDTree(seeds).query_ball_point(seeds, reach)
    alive = np.ones(len(seeds), bool)
    for number, others in enumerate(near):
        if alive[number]:
            alive[others] = False
            alive[number] = True
    return seeds[alive]


def _areas_and_fills(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Area in px of labels 1 … count, and the share of its ellipse of inertia that each fills."""
    rows, cols = np.mgrid[: labels.shape[0], : labels.shape[1]]
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(np.float64)
    x, y, xx, yy, xy = (_means(labels, v, area) for v in (cols, rows, cols**2, rows**2, rows * cols))
    # 1/12: a pixel is a square, not a point
    xx, yy, xy = xx - x**2 + 1 / 12, yy - y**2 + 1 / 12, xy - x * y
    return area, area / (4 * np.pi * np.sqrt(np.maximum(xx * yy - xy**2, 1e-6)))


def _means(labels: np.ndarray, values: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Mean of ``values`` in each of the labels 1 … N, whose areas are ``area`` px."""
    return np.bincount(labels.ravel(), values.ravel(), len(area) + 1)[1:] / area


def _blur(image: np.ndarray, microns: float, p: NucleusParameters) -> np.ndarray:
    return ndimage.gaussian_filter(image, microns / p.mpp, truncate=2.5)
