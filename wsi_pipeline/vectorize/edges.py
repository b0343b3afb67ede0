"""The unit edges between pixels of different label, each with its successor along the outline.

An edge belongs to the pixel inside the object and is walked with the object on the right hand (y points down),
so outer rings run counter-clockwise in the mathematical sense and holes the other way. Where two pixels of one
label touch only at a corner, the walk stays at its own pixel: objects are 4-connected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EAST, SOUTH, WEST, NORTH = range(4)

# The corner of its pixel at which an edge starts, by direction.
_START_X = np.array([0, 1, 1, 0])
_START_Y = np.array([0, 0, 1, 1])


@dataclass(frozen=True, slots=True)
class Edges:
    """E directed unit edges of the pixels inside a padded label image.

    Attributes:
        labels: (H + 2, W + 2) integers, the image with its one-pixel frame.
        pixel: (E,) int64 flat index into ``labels`` of the pixel an edge belongs to.
        direction: (E,) int64, ``EAST`` … ``NORTH``.

    Edges are sorted by pixel, then by direction.
    """

    labels: np.ndarray
    pixel: np.ndarray
    direction: np.ndarray

    @property
    def _step(self) -> np.ndarray:
        width = self.labels.shape[1]
        return np.array([1, width, -1, -width])

    def label(self) -> np.ndarray:
        """(E,) the label of the object."""
        return self.labels.ravel()[self.pixel]

    def other(self) -> np.ndarray:
        """(E,) the label on the other side."""
        return self.labels.ravel()[self.pixel + self._step[self.direction - 1]]

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """(E,) x and y of the corner each edge starts at; px of the image without its frame."""
        row, col = np.divmod(self.pixel, self.labels.shape[1])
        return col - 1 + _START_X[self.direction], row - 1 + _START_Y[self.direction]

    def end(self) -> tuple[np.ndarray, np.ndarray]:
        """(E,) x and y of the corner each edge ends at."""
        row, col = np.divmod(self.pixel, self.labels.shape[1])
        turned = (self.direction + 1) % 4
        return col - 1 + _START_X[turned], row - 1 + _START_Y[turned]

    def turns(self) -> tuple[np.ndarray, np.ndarray]:
        """(E,) bool each: the outline bends where the edge starts; it touches its own label there (saddle)."""
        flat, step = self.labels.ravel(), self._step
        behind = self.pixel - step[self.direction]
        inside = flat[self.pixel]
        back = flat[behind] == inside
        back_left = flat[behind + step[self.direction - 1]] == inside
        return ~back | back_left, ~back & back_left

    def successor(self) -> np.ndarray:
        """(E,) int64 index of the edge that follows, -1 where it belongs to a pixel outside."""
        flat, step = self.labels.ravel(), self._step
        ahead = self.pixel + step[self.direction]
        ahead_left = ahead + step[self.direction - 1]
        inside = flat[self.pixel]
        free = flat[ahead] != inside
        straight = flat[ahead_left] != inside
        pixel = np.where(free, self.pixel, np.where(straight, ahead, ahead_left))
        direction = (self.direction + np.where(free, 1, np.where(straight, 0, 3))) % 4
        return _find(4 * self.pixel + self.direction, 4 * pixel + direction)

    def select(self, chosen: np.ndarray) -> Edges:
        """The edges for which the (E,) bool ``chosen`` is true."""
        return Edges(self.labels, self.pixel[chosen], self.direction[chosen])


def find_edges(labels: np.ndarray) -> Edges:
    """Every boundary edge of the labelled pixels.

    Args:
        labels: (H + 2, W + 2) integers ≥ 0; 0 is background. The outermost pixels only tell what lies beyond.
    """
    core = labels[1:-1, 1:-1]
    width = labels.shape[1]
    object_ = core != 0
    differs_v = labels[1:, 1:-1] != labels[:-1, 1:-1]
    differs_h = labels[1:-1, 1:] != labels[1:-1, :-1]
    keys = []
    for direction, differs in (
        (EAST, differs_v[:-1]),
        (SOUTH, differs_h[:, 1:]),
        (WEST, differs_v[1:]),
        (NORTH, differs_h[:, :-1]),
    ):
        row, col = np.divmod(np.flatnonzero(differs & object_), max(1, core.shape[1]))
        keys.append(4 * ((row + 1) * width + col + 1) + direction)
    key = np.sort(np.concatenate(keys), kind="stable")  # merges the four sorted lists
    return Edges(labels, key >> 2, key & 3)


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key is in the sorted keys, -1 where it is not."""
    if not len(keys):
        return np.zeros(0, np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)
