"""The images where a run is worst, with both outlines."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.segmentation import find_boundaries

from wsi_pipeline.errors import LabelsError
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.study import ImageResult, Options, read_compared

TRUTH_COLOR, PREDICTION_COLOR, BOTH_COLOR = (0, 200, 83), (255, 0, 160), (255, 255, 255)

_SIDE = 640
"""Side of the part of a large image that is shown, px."""
_ENLARGED = 2
"""Outlines are one px of the enlarged picture, so that they hide little."""
_BLANK = 96


def worst(images: Sequence[ImageResult], count: int) -> list[ImageResult]:
    """The images of lowest PQ, of equal ones those of lowest Dice, worst first."""

    def quality(image: ImageResult) -> tuple[float, float]:
        found = image.whole.ratios()
        return found["pq"], found["dice"]

    return sorted(images, key=quality)[:count]


def draw(result: ImageResult, options: Options) -> str:
    """The image, or where it is large its part of most disagreement, as a ``data:`` URL of a PNG.

    Raises:
        LabelsError: the image of the manifest cannot be read, or is not of the size of its truth.
    """
    truth, prediction, _ = read_compared(result.truth, result.prediction, options)
    window = _most_different(truth, prediction)
    ground = _ground(result.truth.image, truth.image.shape)[window]
    picture = np.array(_enlarge(ground))
    first, second = (_outline(_enlarge(labels.image[window])) for labels in (truth, prediction))
    for where, color in ((first, TRUTH_COLOR), (second, PREDICTION_COLOR), (first & second, BOTH_COLOR)):
        picture[where] = color
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _ground(path: Path | None, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W, 3) uint8, grey where there is no image."""
    if path is None:
        return np.full((*shape, 3), _BLANK, np.uint8)
    try:
        with Image.open(path) as file:
            image = np.asarray(file.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise LabelsError(f"cannot be read ({error})", where=path, fix="Give PNG, JPEG or TIFF") from None
    if image.shape[:2] != shape:
        raise LabelsError(
            f"is {image.shape[1]} x {image.shape[0]} px, its truth is {shape[1]} x {shape[0]} px",
            where=path,
            fix="Give the image that was annotated, or leave it out",
        )
    return image


def _most_different(truth: Labels, prediction: Labels) -> tuple[slice, slice]:
    """The square of a grid with most px in one mask only."""
    wrong = truth.mask ^ prediction.mask
    height, width = wrong.shape
    lines = np.add.reduceat(wrong, np.arange(0, height, _SIDE), axis=0, dtype=np.int64)
    squares = np.add.reduceat(lines, np.arange(0, width, _SIDE), axis=1)
    row, column = np.unravel_index(int(squares.argmax()), squares.shape)
    y, x = int(row) * _SIDE, int(column) * _SIDE
    return slice(y, y + _SIDE), slice(x, x + _SIDE)


def _enlarge(image: np.ndarray) -> np.ndarray:
    return image.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)


def _outline(labels: np.ndarray) -> np.ndarray:
    """The px of objects (H, W) that have a px of another value below or beside them."""
    # with a border, so that what the picture cuts is outlined there, too
    return find_boundaries(np.pad(labels, 1), mode="inner")[1:-1, 1:-1]
