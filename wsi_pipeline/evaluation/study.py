"""Every run against every truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_pipeline.errors import LabelsError
from wsi_pipeline.evaluation.aggregate import REPLICATES
from wsi_pipeline.evaluation.labels import Frame, Labels
from wsi_pipeline.evaluation.metrics import Score, score
from wsi_pipeline.evaluation.pairing import Truth, find_prediction
from wsi_pipeline.evaluation.reading import read_pair
from wsi_pipeline.training.boundary import EVALUATION_WIDTH


@dataclass(frozen=True, slots=True)
class Options:
    """How to compare.

    Attributes:
        frame: the raster for pairs of GeoJSON files.
        mpp: µm per px of all images, instead of what the files say.
        level: of mask pyramids.
        class_name: compare the objects of this class only.
        size_edges: areas between size bins, in µm² where every image has an mpp, else in px; None for terciles.
        boundary_width: of boundary IoU, as a share of the image diagonal.
        replicates, seed: of the bootstrap.
    """

    frame: Frame | None = None
    mpp: float | None = None
    level: int = 0
    class_name: str | None = None
    size_edges: tuple[float, ...] | None = None
    boundary_width: float = EVALUATION_WIDTH
    replicates: int = REPLICATES
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image of one run.

    Attributes:
        truth: what it was compared with.
        prediction: file or folder.
        mpp: µm per px, or None.
        whole: score of all objects.
        classes: score of each class that truth or prediction has, where both tell classes.
    """

    truth: Truth
    prediction: Path
    mpp: float | None
    whole: Score
    classes: Mapping[str, Score]

    def values(self, class_name: str | None = None) -> dict[str, float]:
        """Every metric of the image; ``hd95_um`` is nan where no mpp is known."""
        chosen = self.whole if class_name is None else self.classes[class_name]
        return chosen.ratios() | {"hd95_px": chosen.hd95, "hd95_um": chosen.hd95 * (self.mpp or np.nan)}


def evaluate(
    truths: Sequence[Truth], runs: Mapping[str, Path], options: Options | None = None
) -> dict[str, list[ImageResult]]:
    """Score the predictions of every run, in the order of the truths.

    Args:
        truths: at least one.
        runs: file, pyramid or folder of predictions by the name of the run.
        options: how to compare.

    Raises:
        LabelsError: a prediction is missing or cannot be compared, or no object has the class asked for.
        GeoJSONError, OutputError: see ``read_pair``.
    """
    options = options or Options()
    # before the first is read, so that a missing one is not found after an hour
    found = {name: [find_prediction(path, truth.name) for truth in truths] for name, path in runs.items()}
    results = {
        name: [_compare(truth, path, options) for truth, path in zip(truths, paths, strict=True)]
        for name, paths in found.items()
    }
    if options.class_name is not None:
        _check_class(options.class_name, results)
    return results


def read_compared(truth: Truth, prediction: Path, options: Options) -> tuple[Labels, Labels, float | None]:
    """Truth, prediction and mpp as they are compared: of one class, and with the class of the manifest.

    A prediction that tells no classes is taken to be of the class that was asked for.
    """
    first, second, frame = read_pair(truth.path, prediction, given=options.frame, level=options.level)
    first, second = (labels.with_default_class(truth.object_class) for labels in (first, second))
    if options.class_name is not None:
        first = first.only(options.class_name)
        second = second.only(options.class_name) if any(second.classes) else second
    return first, second, options.mpp or truth.mpp or frame.mpp


def _compare(truth: Truth, prediction: Path, options: Options) -> ImageResult:
    first, second, mpp = read_compared(truth, prediction, options)
    width = options.boundary_width
    classes = {name: score(first.only(name), second.only(name), width) for name in _shared_classes(first, second)}
    return ImageResult(truth, prediction, mpp, score(first, second, width), classes)


def _shared_classes(first: Labels, second: Labels) -> list[str]:
    """Class names of either; none where one side has objects and tells no class."""
    sides = [{name for name in labels.classes if name} for labels in (first, second) if labels.classes]
    return sorted(set().union(*sides)) if all(sides) else []


def _check_class(name: str, results: Mapping[str, Sequence[ImageResult]]) -> None:
    for images in results.values():
        if not any(len(image.whole.truth_areas) for image in images):
            raise LabelsError(
                f"has no object of class {name}",
                where=images[0].truth.path if len(images) == 1 else "--truth",
                fix="Check --class; label images have classes only by the manifest's column object_class",
            )
