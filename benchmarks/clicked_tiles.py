"""A click in every object of annotated tiles, and the object that was meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.training.data.augment import Augmentation, AugmentedPairs
from wsi_pipeline.training.data.clicks import Clicked, clicks_on
from wsi_pipeline.training.data.tiles import open_tiles
from wsi_pipeline.training.data.warp import STILL
from wsi_pipeline.training.sources import VALIDATION, Joined

_SEED = 0


class ClickedTile(NamedTuple):
    """The middle of a tile with n clicks.

    Attributes:
        pair: one pair of patches of S px.
        points: (n, 2) float32 (x, y) px.
        classes: (n,) str.
        objects: (n, S, S) bool, the object of each click.
        labels: (S, S) int32 all annotated objects, also those that no click is left of.
    """

    pair: PairImages
    points: np.ndarray
    classes: np.ndarray
    objects: np.ndarray
    labels: np.ndarray


def clicked_tiles(
    data: Path, size: int, context_factor: float, classes: Sequence[str] = (), *, zoom: float = 1.0
) -> Iterator[ClickedTile]:
    """Tiles of the split ``val`` that show objects.

    Args:
        data: folder with a manifest.
        size: S.
        context_factor: how much farther low patches see.
        classes: of the objects; none for all.
        zoom: how much larger tiles are made.

    Raises:
        DatasetError: see ``open_tiles``.
    """
    source = Joined([open_tiles(data)], classes=tuple(classes))
    still = replace(STILL, zoom=(zoom, zoom))
    plain = replace(Augmentation.none(size, context_factor), warp=still)
    clicked, whole = (AugmentedPairs(one, plain, _SEED) for one in (Clicked(source, _SEED), source))
    for number in source.numbers(VALIDATION):
        sample, truth = clicked[number], whole[number].high.labels
        points, labels = clicks_on(sample.high)
        objects = truth == labels[:, None, None]
        # a click may lie beside an object of which the patch shows a rim alone
        kept = objects.any(axis=(1, 2))
        names = np.array(sample.classes)[labels[kept] - 1] if kept.any() else np.zeros(0, str)
        low = None if sample.low is None else sample.low.image[None]
        if kept.any():
            pair = PairImages(sample.high.image[None], low, context_factor)
            yield ClickedTile(pair, points[kept], names, objects[kept], truth)


def iou_of(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of masks (..., h, w) bool with others that fit them."""
    found: np.ndarray = (masks & others).sum(axis=(-2, -1)) / (masks | others).sum(axis=(-2, -1))
    return found


def point_prompts(points: np.ndarray, classes: np.ndarray | None = None) -> PromptBatch:
    """Clicks (n, 2) on one patch as prompts, with their classes (n,) where the model is told."""
    ones = np.ones((len(points), 1), np.int64)
    return PromptBatch(np.zeros(len(points), np.int64), points=points[:, None], point_labels=ones, classes=classes)
