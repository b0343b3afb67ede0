"""Tiles of drawn tissue: glands, lymphocyte aggregates and fat vacuoles in stroma, stained a little differently each.

They prove mechanisms and no clinical value. On purpose the lumen of a gland looks like fat, and its nuclei like
lymphocytes, so that nothing is told apart by its colour alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

GLAND, AGGREGATE, VACUOLE = CLASSES = ("gland", "lymphocyte aggregate", "fat vacuole")
LUMEN, RING = 0.35, 0.72
"""Shares of a gland's radius up to which there is nothing, and from which on there are nuclei."""
_RADII = {GLAND: (45, 90), AGGREGATE: (30, 60), VACUOLE: (22, 45)}
"""Least and most, px."""
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""Optical densities of red, green and blue of haematoxylin and eosin."""
_REACH, _GAP = 1.23, 4
"""Farthest a shape goes, in radii, and px between shapes."""
_DISTANCE, _SIZE = 9, 3.4
"""px between the middles of crowded nuclei, and their radius."""


class Scene(NamedTuple):
    """A tile and the truth about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int32, 0 is stroma.
        classes: of the objects 1, 2, …, each one of ``CLASSES``.
    """

    image: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def draw_scene(
    seed: int,
    *,
    size: int = 512,
    glands: tuple[int, int] = (3, 5),
    aggregates: tuple[int, int] = (1, 2),
    vacuoles: tuple[int, int] = (1, 3),
) -> Scene:
    """The tile of a seed.

    Args:
        seed: the same one draws the same tile.
        size: side, px.
        glands, aggregates, vacuoles: fewest and most of each; one that finds no room is left out.
    """
    rng = np.random.default_rng(seed)
    counts = {GLAND: glands, AGGREGATE: aggregates, VACUOLE: vacuoles}
    labels, depth, classes = np.zeros((size, size), np.int32), np.ones((size, size)), []
    for name in (one for one, (least, most) in counts.items() for _ in range(rng.integers(least, most + 1))):
        shape = free_shape(rng, labels > 0, rng.uniform(*_RADII[name]))
        if shape is not None:
            classes.append(name)
            labels[shape < 1], depth[shape < 1] = len(classes), shape[shape < 1]
    kinds = np.array(["", *classes])[labels]
    return Scene(stained(rng, _densities(rng, kinds, depth)), labels, tuple(classes))


def free_shape(rng: np.random.Generator, taken: np.ndarray, radius: float) -> np.ndarray | None:
    """A wobbly ellipse as each px's share of the way to its outline (H, W); None where no place is free."""
    room = ndimage.distance_transform_edt(np.pad(~taken, 1))[1:-1, 1:-1]
    free = np.argwhere(room > _REACH * radius + _GAP)
    if not len(free):
        return None
    down, across = np.ogrid[: len(taken), : len(taken)]
    (y, x), turns = rng.choice(free), rng.uniform(0, 2 * np.pi, 3)
    angle = np.arctan2(down - y, across - x)
    waves = (np.cos(wave * angle - turn) for wave, turn in zip((2, 3, 5), turns, strict=True))
    wobble = 1 + sum(height * wave for height, wave in zip((rng.uniform(0, 0.15), 0.05, 0.03), waves, strict=True))
    return np.hypot(down - y, across - x) / (radius * wobble)


def _densities(rng: np.random.Generator, kinds: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(H, W, 2) how much haematoxylin and eosin there is."""
    size = len(kinds)
    fibres = ndimage.gaussian_filter(rng.normal(size=(size, size)), rng.permutation([2, 12]))
    haematoxylin, eosin = np.full((size, size), 0.06), 0.45 + 0.12 * fibres / fibres.std()
    gland, empty = kinds == GLAND, (kinds == VACUOLE) | ((kinds == GLAND) & (depth < LUMEN))
    haematoxylin[gland], eosin[gland] = 0.14, 0.28
    crowded = (kinds == AGGREGATE) | (gland & (depth >= RING))
    nuclei = crowded & _nuclei(rng, size, _DISTANCE) | (kinds == "") & _nuclei(rng, size, 4 * _DISTANCE)
    haematoxylin[nuclei], eosin[nuclei] = 0.95, 0.3
    haematoxylin[empty] = eosin[empty] = 0.02
    return np.stack([haematoxylin, eosin.clip(0.02)], axis=-1)


def _nuclei(rng: np.random.Generator, size: int, distance: int) -> np.ndarray:
    """(H, W) bool: discs about as far from each other as said."""
    middles = np.stack(np.meshgrid(*[np.arange(0, size, distance)] * 2), axis=-1).reshape(-1, 2)
    middles = (middles + rng.integers(0, distance, middles.shape)).clip(max=size - 1)
    elsewhere = np.ones((size, size), bool)
    elsewhere[tuple(middles.T)] = False
    return ndimage.distance_transform_edt(elsewhere) < _SIZE + rng.normal(0, 0.5, (size, size))


def stained(rng: np.random.Generator, densities: np.ndarray) -> np.ndarray:
    stains = _STAINS + rng.normal(0, 0.04, _STAINS.shape)
    bright = 255 * np.exp(-densities * rng.normal(1, 0.1, 2) @ stains.clip(0))
    return (bright + rng.normal(0, 4, bright.shape)).clip(0, 255).astype(np.uint8)
