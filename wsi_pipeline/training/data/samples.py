"""One annotated image, and a collection of them that is read lazily."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class SampleInfo:
    """What is known of a sample before its pixels are read.

    Attributes:
        source_id: names it within its data set, and in messages.
        group: patient, slide or field; samples of one group stay in one split.
        split: ``train``, ``val``, …; empty where the publisher or user did not say.
        class_names: classes of the objects it was made for, sorted.
        licence: of image and labels, as its source states it.
        mpp: µm per px, or None where nobody knows.
        annotation_digest: of the file that says what is there, where one file says it for a whole slide.
    """

    source_id: str
    group: str
    split: str
    class_names: tuple[str, ...]
    licence: str
    mpp: float | None = None
    annotation_digest: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels and what is known about them.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int32, 0 is background, n the n-th object of the sample.
        known: (H, W) bool, where image and labels may be believed; elsewhere the image is made up or nobody annotated.
    """

    image: np.ndarray
    labels: np.ndarray
    known: np.ndarray


@dataclass(frozen=True, slots=True)
class Sample:
    """An annotated image, and its surroundings where there are any.

    Attributes:
        info: where it is from.
        high: the image.
        classes: class of each object; that of label n is ``classes[n - 1]``.
        low: what lies around it, with the same centre, ``context_factor`` times as many µm per px and the same
            objects under the same labels; None for an image without surroundings.
        context_factor: c.
        parents: label of the object that each lies in, 0 for none; that of label n is ``parents[n - 1]``. Labels then
            are those of the innermost objects, and an object covers the px of all that lie in it, too. Empty where no
            object lies in another.
    """

    info: SampleInfo
    high: Picture
    classes: tuple[str, ...]
    low: Picture | None = None
    context_factor: float = 2.0
    parents: tuple[int, ...] = ()


class SampleSource(Protocol):
    """Samples of one origin: their number and facts are known at once, a sample is read when it is asked for.

    Pickles to a few paths, so that workers of a data loader can each read their own.
    """

    @property
    def infos(self) -> Sequence[SampleInfo]:
        """Facts of every sample, in order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Changed(ABC):
    """Samples of a source, each of which is something else than it was; a ``SampleSource``.

    Args:
        source: the samples as they were.
    """

    def __init__(self, source: SampleSource) -> None:
        self._source = source

    @property
    def infos(self) -> Sequence[SampleInfo]:
        return self._source.infos

    def __len__(self) -> int:
        return len(self._source)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...


def renumbered(ids: Collection[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Give the objects of rasters labels from 1 on, without gaps and the same in all of them.

    Args:
        ids: rasters (H, W) of unsigned or positive ids, 0 for background.

    Returns:
        The rasters as int32 labels, and (N,) the ids of objects 1 … N, ascending.
    """
    present = np.unique(np.concatenate([np.unique(raster) for raster in ids]))
    present = present[present > 0]
    return [np.where(raster > 0, np.searchsorted(present, raster) + 1, 0).astype(np.int32) for raster in ids], present
