"""What is looked for: tiles with outlined objects, tiles to find their like on, and tiles without any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.scenes import AGGREGATE, CLASSES, GLAND, VACUOLE, draw_scene
from benchmarks.tiles import ListedTile, tiles_of
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.models.matcher.examples import Outline
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.vectorize.arrays import polygons_from_labels

SIDE = 256
"""px of the patches that are looked at."""
EXAMPLES, TARGETS, ABSENT = (1, 2, 3), range(11, 15), range(21, 26)
"""Seeds of drawn tiles."""
REAL = (
    ("rings_prostate", "benign gland", 2.0),
    ("rings_prostate", "tumour region", 2.0),
    ("ocdc", "tumour region", 2.5),
    ("tnbc", "nucleus", 1.0),
)
"""Data set, class, and px of a tile per px of the patch."""
MOST = 4
"""Tiles of a class, the example among them."""
_PX = 1.0
"""µm that a tile's px is taken to measure: not all publishers say."""


class Tile(NamedTuple):
    """A tile as a slide, and which objects count.

    Attributes:
        slide: its pixels.
        labels: (H, W) int32 objects of the class.
        shrink: px of the tile per px of the patch; the patch lies in the middle of the tile.
    """

    slide: Slide
    labels: np.ndarray
    shrink: float

    @property
    def to_tile(self) -> Affine2D:
        """From px of the patch to px of the tile."""
        height, width = self.labels.shape
        side = SIDE * self.shrink
        return Affine2D(self.shrink, self.shrink, (width - side) / 2, (height - side) / 2)

    @property
    def mpp(self) -> float:
        return self.shrink * _PX

    def patch(self) -> np.ndarray:
        """(S, S, 3) uint8 RGB."""
        return self.slide.read_grid(self.to_tile, (SIDE, SIDE))

    def patch_labels(self) -> np.ndarray:
        """(S, S) int32."""
        ticks = np.arange(SIDE) + 0.5
        x, y = self.to_tile.apply(np.stack([ticks, ticks], axis=-1)).T.astype(np.int64)
        return self.labels[np.ix_(y, x)]

    def outlines(self, name: str) -> list[Outline]:
        """All objects as examples."""
        return [Outline(self.slide, geometry, name) for geometry in polygons_from_labels(self.labels)[1]]


class Subject(NamedTuple):
    """A class that is looked for.

    Attributes:
        name: of the class.
        data: where its tiles are from.
        examples: tiles that are examples, each on its own.
        targets: tiles that hold the class.
        absent: tiles that do not.
    """

    name: str
    data: str
    examples: Sequence[Tile]
    targets: Sequence[Tile]
    absent: Sequence[Tile]


def drawn_subjects(folder: Path) -> list[Subject]:
    """The classes of drawn tissue."""
    without = {GLAND: {"glands": (0, 0)}, AGGREGATE: {"aggregates": (0, 0)}, VACUOLE: {"vacuoles": (0, 0)}}

    def tiles(seeds: Iterable[int], name: str, counts: dict[str, tuple[int, int]]) -> Iterator[Tile]:
        for seed in seeds:
            scene = draw_scene(seed, **counts)
            wanted = np.flatnonzero([kind == name for kind in scene.classes]) + 1
            labels = np.where(np.isin(scene.labels, wanted), scene.labels, 0)
            yield _tile(folder / f"{seed}-{'-'.join(counts)}.png", scene.image, labels, 2.0)

    return [
        Subject(
            name,
            "drawn",
            list(_with_any(tiles(EXAMPLES, name, {}))),
            list(_with_any(tiles(TARGETS, name, {}))),
            list(tiles(ABSENT, name, without[name])),
        )
        for name in CLASSES
    ]


def real_subjects(data: Path, folder: Path) -> list[Subject]:
    """Annotated tiles: of each data set the first tile of training is the example, all others are targets.

    Raises:
        DatasetError: see ``open_tiles``.
    """
    listed = [tile for split in ("train", "val") for tile in tiles_of(data, split)]

    def some(dataset: str, name: str, shrink: float, most: int = MOST) -> list[Tile]:
        chosen = [
            tile
            for tile in listed
            if tile.dataset == dataset
            and name in tile.info.class_names
            and min(tile.picture.labels.shape) >= SIDE * shrink
        ]
        return [_of_listed(tile, folder, shrink) for tile in chosen[:most]]

    foreign = [tile._replace(labels=np.zeros_like(tile.labels)) for tile in some("tnbc", "nucleus", 2.0)]
    subjects = []
    for dataset, name, shrink in REAL:
        tiles = some(dataset, name, shrink)
        absent = foreign if name == "benign gland" else []
        subjects.append(Subject(name, dataset, tiles[:1], tiles[1:], absent))
    return subjects


def _with_any(tiles: Iterable[Tile]) -> Iterator[Tile]:
    return (tile for tile in tiles if tile.labels.any())


def _of_listed(tile: ListedTile, folder: Path, shrink: float) -> Tile:
    return _tile(folder / f"{tile.number}.png", tile.picture.image, tile.picture.labels, shrink)


def _tile(path: Path, image: np.ndarray, labels: np.ndarray, shrink: float) -> Tile:
    if not path.exists():
        Image.fromarray(image).save(path)
    return Tile(open_slide(path, mpp=_PX), labels, shrink)
