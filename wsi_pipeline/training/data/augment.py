"""Pairs to train on, cut from samples: one geometry, one stain and one scanner for both patches.

A sample of a slide brings its surroundings along. One that is a mere tile is its own surroundings: the low patch is
made by shrinking it, and what lies beyond its edge is made up and marked as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from wsi_pipeline.training.data.resample import Beyond, look
from wsi_pipeline.training.data.samples import Changed, Picture, Sample, SampleSource
from wsi_pipeline.training.data.scanner import Scan, ScanRange, draw_scan, scanned
from wsi_pipeline.training.data.stain import StainRange, draw_stain, restained
from wsi_pipeline.training.data.warp import STILL, Warp, WarpRange, draw_warp


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What pairs look like and how they may differ from their samples.

    Attributes:
        size: S, side of both patches, px.
        context_factor: c of the pairs, which need not be that of the samples.
        warp: geometry.
        stain: colour; None keeps it.
        scan: faults of the scanner; None adds none.
        on_object: probability that the patch is moved to a px of a random object instead of a random place.
        centred: cut from the middle of the sample instead.
        beyond: what the image is where the sample ends.
    """

    size: int
    context_factor: float = 2.0
    warp: WarpRange = field(default_factory=WarpRange)
    stain: StainRange | None = field(default_factory=StainRange)
    scan: ScanRange | None = None
    on_object: float = 0.5
    centred: bool = False
    beyond: Beyond = "reflect"

    @classmethod
    def none(cls, size: int, context_factor: float = 2.0) -> Augmentation:
        """The middle of each sample as it is, for validation."""
        return cls(size, context_factor, warp=STILL, stain=None, centred=True)


class AugmentedPairs(Changed):
    """A pair of every sample, new ones each epoch.

    A pair depends on the seed, the epoch and the sample's number only, and so neither on the order in which pairs are
    asked for nor on who asks.

    Args:
        source: the samples.
        augmentation: how pairs are made of them.
        seed: of all draws.
        epoch: its number; a loader whose workers stay alive needs a new ``AugmentedPairs`` per epoch.
    """

    def __init__(self, source: SampleSource, augmentation: Augmentation, seed: int, epoch: int = 0) -> None:
        super().__init__(source)
        self._augmentation, self._seed, self._epoch = augmentation, seed, epoch

    def __getitem__(self, index: int) -> Sample:
        random = np.random.default_rng((self._seed, self._epoch, index))
        return augment(self._source[index], self._augmentation, random)


def augment(sample: Sample, how: Augmentation, random: np.random.Generator) -> Sample:
    """A pair of patches of one sample.

    Args:
        sample: with or without surroundings.
        how: what to do.
        random: source of all draws.

    Returns:
        A sample whose high and low patches are ``how.size`` px a side. Objects keep their labels, whether or not they
        are still in sight; mpp follows the scale where it was known.
    """
    warp = draw_warp(how.warp, how.size, how.context_factor, random)
    centre = _centre(sample.high, warp, how, random)
    high, low = (_cut(sample, warp, centre, how, step) for step in (1.0, how.context_factor))
    if how.stain is not None:
        change = draw_stain(how.stain, random)
        high, low = (replace(patch, image=restained(patch.image, change)) for patch in (high, low))
    if how.scan is not None:
        scan = draw_scan(how.scan, random)
        high, low = _scanned(high, scan, 1.0, random), _scanned(low, scan, how.context_factor, random)
    mpp = None if sample.info.mpp is None else sample.info.mpp * warp.spacing
    return Sample(replace(sample.info, mpp=mpp), high, sample.classes, low, how.context_factor, sample.parents)


def _centre(picture: Picture, warp: Warp, how: Augmentation, random: np.random.Generator) -> np.ndarray:
    """(2,) the pair's centre (x, y), px of the sample; the high patch stays inside as long as it fits."""
    size = np.array(picture.labels.shape[::-1], float)
    reach = np.minimum(warp.reach(how.size), size / 2)
    wanted = reach + random.random(2) * (size - 2 * reach)
    on_object, choice = random.random(2)
    if on_object < how.on_object:
        wanted = _on_object(picture.labels, choice, random, otherwise=wanted)
    if how.centred:
        wanted = size / 2
    # px of an image that is neither turned nor scaled are then copied, not interpolated
    whole = np.floor(wanted) + how.size % 2 / 2
    return np.where(size > 2 * reach, np.clip(whole, reach, size - reach), size / 2)


def _on_object(labels: np.ndarray, choice: float, random: np.random.Generator, *, otherwise: np.ndarray) -> np.ndarray:
    present = np.unique(labels[labels > 0])
    if not len(present):
        return otherwise
    rows, columns = np.nonzero(labels == present[int(choice * len(present))])
    place = random.integers(len(rows))
    return np.array([columns[place], rows[place]], float)


def _cut(sample: Sample, warp: Warp, centre: np.ndarray, how: Augmentation, step: float) -> Picture:
    """The patch whose px are ``step`` px of the high patch apart, from whichever picture shows that much."""
    offsets = warp.offsets(how.size, step)
    middle = np.array(sample.high.labels.shape[::-1]) / 2
    if sample.low is None or step == 1:
        return look(sample.high, centre + offsets, warp.spacing * step, how.beyond)
    c = sample.context_factor
    around = np.array(sample.low.labels.shape[::-1]) / 2
    points = around + (centre - middle + offsets) / c
    return look(sample.low, points, warp.spacing * step / c, how.beyond)


def _scanned(patch: Picture, scan: Scan, step: float, random: np.random.Generator) -> Picture:
    return replace(patch, image=scanned(patch.image, scan, step, random))
