"""Tiles of drawn cells, a click and six proposals for each: what a click means is told by the cell's class alone.

They prove mechanisms and no clinical value. SAM's own score would take the nucleus for the object of every click.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

SIZE, CELLS = 192, 9
"""Side of a scene, px, and its cells."""
CLASSES = ("cell of kind 0", "cell of kind 1")
PROPOSALS = ("nucleus", "cell", "cell and neighbour", "half cell", "wider nucleus", "wider group")
"""For each click; the first three are SAM's answers."""
SCORES, SCORE_NOISE = np.array([0.95, 0.85, 0.80, 0.60, 0.75, 0.50]), 0.06
"""What SAM says of them, and how much that varies."""
_HALF_AXES, _SLIMMEST, _GAP = (13.0, 20.0), 0.75, 2.0
_INNER = 0.5
"""Axes of the nucleus as a share of the cell's."""
_GROUND, _NOISE = (0.93, 0.80, 0.88), (0.02, 0.03)
_WIDER = {"wider nucleus": 3, "wider group": 4}
"""px."""


@dataclass(frozen=True, slots=True)
class Look:
    """What cells of the two kinds look like.

    Attributes:
        cytoplasm, nucleus: RGB in 0..1 for either kind.
        neighbours: share of the cells that are of the kind of their half of the image; None: kinds are random.
    """

    cytoplasm: tuple[tuple[float, float, float], tuple[float, float, float]]
    nucleus: tuple[tuple[float, float, float], tuple[float, float, float]]
    neighbours: float | None = None


_NUCLEI = (0.30, 0.20, 0.55), (0.50, 0.22, 0.40)
LOOKS = {
    "S1a": Look(((0.86, 0.56, 0.70), (0.72, 0.66, 0.86)), ((0.38, 0.22, 0.52),) * 2),
    "S1b": Look(((0.84, 0.60, 0.74), (0.78, 0.63, 0.79)), _NUCLEI, neighbours=0.8),
    "S1c": Look(((0.85, 0.58, 0.72), (0.75, 0.645, 0.825)), _NUCLEI, neighbours=0.8),
}
"""The kind shows in the cytoplasm alone; hardly but in the nucleus; in the nucleus, and less so in the cytoplasm."""


class CellScene(NamedTuple):
    """A tile with n clicks and the truth about them.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        points: (n, 2) float32 (x, y) of the clicks.
        kinds: (n,) int64 number of each cell's class.
        proposals: (n, 6, S, S) bool, in the order of ``PROPOSALS``.
        sam: (n, 6) float32 what SAM says of them.
        cells: (n, S, S) bool, the whole cells.
    """

    image: np.ndarray
    points: np.ndarray
    kinds: np.ndarray
    proposals: np.ndarray
    sam: np.ndarray
    cells: np.ndarray


def draw_cells(seed: int, look: Look) -> CellScene:
    """The scene of a seed."""
    rng = np.random.default_rng(seed)
    centres, depths = _placed(rng)
    cells, nuclei = depths < 1, depths < _INNER
    kinds = _kinds(rng, centres, look)
    proposals = _proposed(centres, depths)
    sam = SCORES + rng.normal(0, SCORE_NOISE, (len(centres), len(SCORES)))
    image = np.full((SIZE, SIZE, 3), _GROUND)
    for cell, nucleus, kind in zip(cells, nuclei, kinds, strict=True):
        image[cell], image[nucleus] = look.cytoplasm[kind], look.nucleus[kind]
    image += rng.normal(0, rng.uniform(*_NOISE), image.shape)
    return CellScene(
        (255 * image.clip(0, 1)).round().astype(np.uint8),
        centres.astype(np.float32),
        kinds,
        proposals,
        sam.astype(np.float32),
        cells,
    )


def _placed(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) middles of ellipses that do not touch, and (n, S, S) each px's share of the way to their outlines."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    centres: list[np.ndarray] = []
    reaches: list[float] = []
    depths: list[np.ndarray] = []
    while len(centres) < CELLS:
        long = rng.uniform(*_HALF_AXES)
        short, angle = long * rng.uniform(_SLIMMEST, 1), rng.uniform(0, np.pi)
        centre = rng.uniform(long + _GAP, SIZE - long - _GAP, 2)
        if any(
            np.hypot(*(centre - other)) < long + reach + _GAP for other, reach in zip(centres, reaches, strict=True)
        ):
            continue
        across, down = x - centre[0], y - centre[1]
        along = across * np.cos(angle) + down * np.sin(angle)
        aside = down * np.cos(angle) - across * np.sin(angle)
        centres.append(centre)
        reaches.append(long)
        depths.append(np.hypot(along / long, aside / short))
    return np.stack(centres), np.stack(depths)


def _kinds(rng: np.random.Generator, centres: np.ndarray, look: Look) -> np.ndarray:
    random = rng.integers(0, len(CLASSES), len(centres))
    if look.neighbours is None:
        return random
    of_half = (centres[:, 0] > SIZE / 2).astype(np.int64)
    return np.where(rng.random(len(centres)) < look.neighbours, of_half, 1 - of_half)


def _proposed(centres: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """(n, 6, S, S) bool."""
    cells, nuclei = depths < 1, depths < _INNER
    apart = np.hypot(*(centres[:, None] - centres[None]).T)
    np.fill_diagonal(apart, np.inf)
    groups = cells | cells[apart.argmin(axis=1)]
    left = np.arange(SIZE) + 0.5 < centres[:, 0, None]
    halves = cells & left[:, None, :]
    wider = [
        np.stack([ndimage.binary_dilation(mask, iterations=_WIDER[name]) for mask in masks])
        for name, masks in (("wider nucleus", nuclei), ("wider group", groups))
    ]
    return np.stack([nuclei, cells, groups, halves, *wider], axis=1)
