"""Training pairs read from a slide: both patches from the slide itself, annotated by whatever lies over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.qupath.origin import Origin as QuPathOrigin
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.tiling.plan import PatchPair
from wsi_pipeline.tiling.read import read_pairs
from wsi_pipeline.training.data.samples import Picture, Sample, SampleInfo, renumbered


@dataclass(frozen=True, slots=True)
class FieldOfView:
    """How much of a slide a sample shows.

    Attributes:
        size: side of both patches, px. To be augmented, larger than the patches that are trained on: what a turn or a
            smaller scale brings into view should have been read.
        mpp: µm per px of the high patch; None for the finest there is.
        context_factor: c, how much farther the low patch sees.
    """

    size: int = 512
    mpp: float | None = None
    context_factor: float = 2.0


@dataclass(frozen=True, slots=True)
class Origin:
    """What a file cannot say about itself.

    Attributes:
        licence: of slide and annotations.
        group: patient; None takes the slide's name, which is right for one slide per patient only.
        split: the split it belongs to, if that is decided.
        qupath: where the slide's pixel (0, 0) lay in QuPath; ``auto`` takes what the file does say, else what QuPath
            does.
    """

    licence: str = "not stated"
    group: str | None = None
    split: str = ""
    qupath: QuPathOrigin = "auto"

    def info(
        self, slide: Slide, name: str, class_names: Sequence[str], mpp: float, annotation_digest: str = ""
    ) -> SampleInfo:
        group, classes = self.group or slide.info.name, tuple(sorted(set(class_names)))
        return SampleInfo(f"{slide.info.name} {name}", group, self.split, classes, self.licence, mpp, annotation_digest)


class Annotated(NamedTuple):
    """Objects on a square raster.

    Attributes:
        ids: (S, S) int64, 0 for background.
        known: (S, S) bool, where somebody annotated.
        classes: class names by id, of all objects on the raster at least.
    """

    ids: np.ndarray
    known: np.ndarray
    classes: Mapping[int, str]


class Annotation(Protocol):
    """Objects over a slide, at any resolution."""

    def on(self, to_level0: Affine2D, size: int) -> Annotated:
        """Objects on the raster of ``size`` px a side that lies at ``to_level0``; an object's id is always the same."""
        ...


class SlidePairs:
    """Annotated pairs of one slide.

    Args:
        slide: read lazily; may be pickled.
        pairs: where.
        annotation: what is there.
        infos: facts of each pair.
    """

    def __init__(
        self, slide: Slide, pairs: Sequence[PatchPair], annotation: Annotation, infos: Sequence[SampleInfo]
    ) -> None:
        self.infos = tuple(infos)
        self._slide, self._pairs, self._annotation = slide, tuple(pairs), annotation

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            SlideError: the slide is damaged there, or has gone.
        """
        pair = self._pairs[index]
        images = read_pairs(self._slide, [pair], low=True)
        assert images.low is not None
        high, low = (self._annotation.on(affine, pair.size) for affine in (pair.high, pair.low))
        (high_labels, low_labels), ids = renumbered([high.ids, low.ids])
        classes = {**low.classes, **high.classes}
        return Sample(
            self.infos[index],
            Picture(images.high[0], high_labels, high.known),
            tuple(classes[number] for number in ids.tolist()),
            Picture(images.low[0], low_labels, low.known),
            pair.context_factor,
        )


def annotated_px(rois: BaseGeometry | None, to_raster: Affine2D, size: int) -> np.ndarray:
    """(size, size) bool, what was annotated: px in regions of interest (level-0 px), or all where there are none."""
    return np.ones((size, size), bool) if rois is None else rasterise(rois, to_raster, size, size)
