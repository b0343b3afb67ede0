"""Tiles of drawn glands whose parts lie in one another, so that a click in one of them is a click in several things.

A gland has a lumen and a ring of cells, a cell a nucleus and its cytoplasm. Which of two types a cell is of is seen in
its cytoplasm alone, so that it is no matter of the part that is clicked. They prove mechanisms and no clinical value.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from benchmarks.scenes import free_shape, stained

GLAND, GOBLET, ABSORPTIVE = OBJECTS = ("gland", "goblet cell", "absorptive cell")
NUCLEUS, CYTOPLASM, LUMEN = PARTS = ("nucleus", "cytoplasm", "lumen")
CELL_TYPES = (GOBLET, ABSORPTIVE)
_RADIUS = (62, 92)
"""Least and most of a gland, px."""
_LUMEN = 0.42
"""Share of a gland's radius up to which there is nothing."""
_CELL, _GAP = 36.0, 2.0
"""Width of cells in the middle of the ring, and what is left free on each of their sides, px: enough to be seen in maps
of every fourth px, as SAM's encoders give of small patches."""
_DENSITIES = {
    GLAND: (0.20, 0.60),
    LUMEN: (0.02, 0.03),
    GOBLET: (0.22, 0.10),
    ABSORPTIVE: (0.14, 0.42),
    NUCLEUS: (0.95, 0.30),
}
"""Haematoxylin and eosin; a gland's own are those between its cells."""


class NestedScene(NamedTuple):
    """A tile and the truth about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int32 number of the innermost object, 0 is stroma.
        names: of the objects 1, 2, …, each one of ``OBJECTS`` or ``PARTS``.
        parents: number of the object that each lies in, 0 for none.
    """

    image: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    parents: tuple[int, ...]


class _Ring(NamedTuple):
    """A gland in its own coordinates, for the n px of its shape.

    Attributes:
        inside: (H, W) bool, the n px.
        depth: (n,) share of the way to the outline.
        cell: (n,) int64 number of the cell whose sector it is in.
        aside: (n,) px to the middle of the sector.
        width: (n,) px of the sector.
        radius: of the gland, px.
        cells: how many.
    """

    inside: np.ndarray
    depth: np.ndarray
    cell: np.ndarray
    aside: np.ndarray
    width: np.ndarray
    radius: float
    cells: int


def draw_nested_scene(seed: int, *, size: int = 512, glands: tuple[int, int] = (5, 8)) -> NestedScene:
    """The tile of a seed.

    Args:
        seed: the same one draws the same tile.
        size: side, px.
        glands: fewest and most; one that finds no room is left out.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    names, parents = [], []
    densities = _stroma(rng, size)
    for _ in range(rng.integers(glands[0], glands[1] + 1)):
        radius = rng.uniform(*_RADIUS)
        shape = free_shape(rng, labels > 0, radius)
        if shape is None:
            continue
        ring = _ring(rng, shape, radius)
        own, kinds, first = *_inside(rng, ring), len(names)
        labels[ring.inside] = first + 1 + own
        densities[ring.inside] = _densities(own, kinds)
        names += kinds
        parents += [0, first + 1, *[first + 1] * ring.cells, *[first + 3 + cell for cell in range(ring.cells)] * 2]
    return NestedScene(stained(rng, densities), labels, tuple(names), tuple(parents))


def _ring(rng: np.random.Generator, shape: np.ndarray, radius: float) -> _Ring:
    """Sectors of the shape (H, W), shares of the way to the outline, with a cell in each."""
    inside = shape < 1
    depth = shape[inside]
    rows, columns = np.nonzero(inside)
    middle = rows[depth.argmin()], columns[depth.argmin()]
    away = np.hypot(rows - middle[0], columns - middle[1])
    cells = round(np.pi * (1 + _LUMEN) * radius / _CELL)
    turns = np.arctan2(rows - middle[0], columns - middle[1]) / (2 * np.pi) + rng.random()
    sector = turns % 1 * cells
    width = 2 * np.pi * away / cells
    cell = np.minimum(sector.astype(np.int64), cells - 1)
    return _Ring(inside, depth, cell, (sector - cell - 0.5) * width, width, radius, cells)


def _inside(rng: np.random.Generator, ring: _Ring) -> tuple[np.ndarray, list[str]]:
    """What a gland is made of.

    Returns:
        (n,) int64 which of its objects each px is of: the gland, its lumen, its cells, their nuclei, their cytoplasms;
        and the names of all of them in this order.
    """
    shares = rng.uniform((0.66, 0.22, 0.24), (0.80, 0.30, 0.31), (ring.cells, 3))
    place, along, across = shares[ring.cell].T
    height = (1 - _LUMEN) * ring.radius
    nucleus = np.hypot((ring.depth - place) * ring.radius / (along * height), ring.aside / (across * _CELL)) < 1
    cytoplasm = np.abs(ring.aside) < ring.width / 2 - _GAP
    lumen = ring.depth < _LUMEN
    outlines = ring.depth > 1 - _GAP / ring.radius
    first = 2 + np.arange(3) * ring.cells
    own = np.select(
        [lumen, outlines, nucleus, cytoplasm], [1, 0, first[1] + ring.cell, first[2] + ring.cell], default=0
    )
    types = rng.choice(CELL_TYPES, ring.cells).tolist()
    return own, [GLAND, LUMEN, *types, *[NUCLEUS] * ring.cells, *[CYTOPLASM] * ring.cells]


def _densities(own: np.ndarray, kinds: list[str]) -> np.ndarray:
    """(n, 2) how much haematoxylin and eosin there is in the objects of a gland."""
    cells = kinds.count(NUCLEUS)
    # cytoplasm looks like the type of its cell
    seen = [*kinds[: 2 + 2 * cells], *kinds[2 : 2 + cells]]
    return np.array([_DENSITIES[name] for name in seen])[own]


def _stroma(rng: np.random.Generator, size: int) -> np.ndarray:
    """(H, W, 2) how much haematoxylin and eosin there is where no gland is."""
    fibres = ndimage.gaussian_filter(rng.normal(size=(size, size)), rng.permutation([2, 12]))
    return np.stack([np.full((size, size), 0.06), (0.45 + 0.12 * fibres / fibres.std()).clip(0.02)], axis=-1)
