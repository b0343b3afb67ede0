"""Objects on one raster, and where that raster lies: what truth and prediction become before they are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from wsi_pipeline.geometry import Affine2D


@dataclass(frozen=True, slots=True)
class Frame:
    """The raster on which truth and prediction are compared.

    Attributes:
        width, height: px.
        mpp: µm per px, or None where nobody says.
        to_level0: maps px of the raster to level-0 px of the uncropped slide.
        corner: level-0 px (x, y) where QuPath's image begins.
    """

    width: int
    height: int
    mpp: float | None = None
    to_level0: Affine2D = field(default_factory=Affine2D)
    corner: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Labels:
    """The objects of an image.

    Attributes:
        image: (H, W) int32, object numbers 1 ... n without gaps in the order of their first px, 0 for background. The
            order makes every number computed from them independent of the labels in the file.
        classes: class names of objects 1 ... n; None for those that have none.
    """

    image: np.ndarray
    classes: tuple[str | None, ...]

    @classmethod
    def of(cls, image: np.ndarray, classes: Mapping[int, str] | None = None) -> Labels:
        """From (H, W) integers of any kind >= 0, and the class names of some of their values."""
        numbers, values = _numbered(image)
        names = classes or {}
        return cls(numbers, tuple(names.get(value) for value in values.tolist()))

    @cached_property
    def areas(self) -> np.ndarray:
        """(n,) int64 px."""
        return np.bincount(self.image.ravel(), minlength=len(self.classes) + 1)[1:]

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, the px of all objects."""
        return self.image > 0

    def only(self, name: str) -> Labels:
        """Those of one class."""
        kept = np.array([False, *(found == name for found in self.classes)])
        number = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
        return Labels(number[self.image], (name,) * int(kept.sum()))

    def with_default_class(self, name: str | None) -> Labels:
        """The same objects; those without a class get this one."""
        return replace(self, classes=tuple(found or name for found in self.classes))


def _numbered(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) int32 numbers of the objects by first px, and the (n,) values they had."""
    flat = image.ravel()
    values = np.arange(int(flat.max(initial=0)) + 1) if flat.max(initial=0) <= flat.size else np.unique(flat)
    code = flat if len(values) > flat.max(initial=0) else np.searchsorted(values, flat)
    first = np.full(len(values), flat.size)
    first[code[::-1]] = np.arange(flat.size)[::-1]  # of equal indices the last one is kept
    found = np.flatnonzero((first < flat.size) & (values > 0))
    found = found[np.argsort(first[found])]
    number = np.zeros(len(values), np.int32)
    number[found] = np.arange(1, len(found) + 1)
    return number[code].reshape(image.shape), values[found]
