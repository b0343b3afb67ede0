"""Clicks in samples: of every object no more is known than one point inside it.

A click is a small disc in the label image of a sample, so that it moves with the image when that is augmented.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from wsi_pipeline.training.data.samples import Changed, Picture, Sample, SampleSource
from wsi_pipeline.training.domain_target import depths

RADIUS = 4.0
"""Of the disc of a click, px of its sample: some of it is left where an augmentation shrinks the sample by half."""
_INNER, _SPREAD = 0.5, 0.25
"""Clicks lie this deep in their object or deeper, and how far they spread from its deepest px, as shares of that."""


class Clicked(Changed):
    """Samples with outlines of which only a click inside each object is left, the same one every time.

    Args:
        source: the samples; those whose objects are clicks already stay as they are, but for a px or two.
        seed: of the clicks.
    """

    def __init__(self, source: SampleSource, seed: int) -> None:
        super().__init__(source)
        self._seed = seed

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
