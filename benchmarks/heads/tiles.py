"""Annotated tiles as the patch pairs and objects that heads are asked about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.tiles import WORKFLOW, layout, tiles_of
from wsi_pipeline.errors import DatasetError
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.spread import spread
from wsi_pipeline.tiling.plan import Tile
from wsi_pipeline.training.batches import objects_of
from wsi_pipeline.training.data.resample import look
from wsi_pipeline.training.data.samples import Picture

SPLIT = "val"
SMALLEST = 16
"""px an object has to have at the resolution it is asked at; of smaller ones a px more or less is the whole score."""
CONTEXT_FACTOR = WORKFLOW.tiling.context_factor
NUCLEI, REGIONS = "nuclei", "glands and regions"


@dataclass(frozen=True, slots=True)
class Family:
    """Objects that are asked about alike.

    Attributes:
        name: ``NUCLEI`` or ``REGIONS``.
        shrink: px of the tile per px of the patch.
    """

    name: str
    shrink: int


FAMILIES = {
    "dsb2018_tissue": Family(NUCLEI, 1),
    "tnbc": Family(NUCLEI, 1),
    "rings_prostate": Family(REGIONS, 2),
}
"""How the objects of a data set are asked about; a 512 px tile of glands at half its size is one patch of 256 px."""


@dataclass(frozen=True, slots=True)
class AnnotatedTile:
    """A tile and what the benchmark has to know of it.

    Attributes:
        number: its row in the manifest, from 0.
        picture: pixels and labels.
        family: how its objects are asked about.
        kind: what its scores are listed under: the data set of nuclei, the class of larger objects.
        group: patient or field.
    """

    number: int
    picture: Picture
    family: Family
    kind: str
    group: str


@dataclass(frozen=True, slots=True)
class AskedPatch:
    """One patch pair and the N objects that are asked about in it.

    Attributes:
        tile: what it is cut from.
        pair: one pair of (1, S, S, 3) uint8 RGB.
        known: (S, S) bool, px that lie on the tile.
        labels: (N,) the objects' labels on the tile, ascending.
        truth: (N, S, S) bool, their masks.
        cut: how many of them reach beyond the patch.
    """

    tile: AnnotatedTile
    pair: PairImages
    known: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    cut: int


def read_tiles(data: Path) -> Iterator[AnnotatedTile]:
    """The validation tiles of a folder with a manifest, which also has to have a column ``dataset``.

    Raises:
        DatasetError: see ``open_tiles``; or a validation tile is of a data set that is not in ``FAMILIES``.
    """
    for one in tiles_of(data, SPLIT):
        family = FAMILIES.get(one.dataset)
        if family is None:
            raise DatasetError(
                f"line {one.line}: nobody says how to ask about {one.dataset}", where=data, fix="Add it to FAMILIES"
            )
        kind = one.dataset if family.name == NUCLEI else one.info.class_names[0]
        yield AnnotatedTile(one.number, one.picture, family, kind, one.info.group)


def patches_of(tile: AnnotatedTile, size: int, limit: int | None = None) -> Iterator[AskedPatch]:
    """The patches of a tile in which an object is asked about.

    Args:
        tile: where from.
        size: S, side of the patches, px.
        limit: most objects of the tile, evenly spread over its labels; None for all.
    """
    shrink = tile.family.shrink
    height, width = (length // shrink for length in tile.picture.labels.shape)
    whole = _seen(tile, (0, 0), (height, width), 1)
    wanted = np.array(spread(objects_of(whole, SMALLEST).tolist(), limit), int)
    plan = layout(width, height, size, batch=1)
    places = [plan.tile(row, col) for row in range(plan.rows) for col in range(plan.cols)]
    homes = most_central(whole.labels, wanted, places)
    for number, place in enumerate(places):
        labels = wanted[homes == number]
        if len(labels):
            yield _asked(tile, place, labels, whole)


def most_central(labels: np.ndarray, wanted: np.ndarray, places: list[Tile]) -> np.ndarray:
    """(N,) the number of the place whose middle is nearest to the middle of each object's box.

    Args:
        labels: (H, W) int32 objects of the whole tile.
        wanted: (N,) labels of objects.
        places: patches.
    """
    boxes = ndimage.find_objects(labels)
    middles = np.array([[(part.start + part.stop) / 2 for part in boxes[label - 1]] for label in wanted])
    centres = np.array([(place.y + place.size / 2, place.x + place.size / 2) for place in places])
    distances = np.square(middles.reshape(-1, 1, 2) - centres).sum(axis=2)
    nearest: np.ndarray = distances.argmin(axis=1)
    return nearest


def _asked(tile: AnnotatedTile, place: Tile, labels: np.ndarray, whole: Picture) -> AskedPatch:
    size = place.size
    corner = size / 2 * (1 - CONTEXT_FACTOR)
    high = _seen(tile, (place.x, place.y), (size, size), 1)
    low = _seen(tile, (place.x + corner, place.y + corner), (size, size), CONTEXT_FACTOR)
    truth = high.labels == labels[:, None, None]
    areas = np.bincount(whole.labels.ravel())[labels]
    cut = int((truth.sum(axis=(1, 2)) < areas).sum())
    pair = PairImages(high.image[None], low.image[None], CONTEXT_FACTOR)
    return AskedPatch(tile, pair, high.known, labels, truth, cut)


def _seen(tile: AnnotatedTile, corner: tuple[float, float], shape: tuple[int, int], step: float) -> Picture:
    """A rectangle of a tile; beyond the tile the image is its mirror image and nothing is known, as in training.

    Args:
        tile: where to look.
        corner: (x, y) px at the resolution asked at.
        shape: (height, width) of the result.
        step: px at that resolution per px of the result.
    """
    shrink = tile.family.shrink
    y, x = (start + (np.arange(length) + 0.5) * step for start, length in zip(corner[::-1], shape, strict=True))
    return look(tile.picture, np.stack(np.meshgrid(x, y), axis=-1) * shrink, step * shrink, "reflect")
