"""What the student learns from: pictures without labels, and what its teacher answers about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from benchmarks.tiles import WORKFLOW, tiles_of
from benchmarks.wide.student import SHRINK
from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.roles import PairImages, PromptBatch
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.prompts.nuclei import NucleusDetector
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.training.sources import TRAIN
from wsi_pipeline.workflow import NucleusDetectorPrompts

SPACINGS = (1.0, 1.4, 2.0)
"""px of the picture per px of a field, equally likely."""
LOOKS = 2
"""Patches of a field that the teacher looks at."""
BOXES = 8
"""Most nuclei that are asked about in a look, and as many random boxes."""
SIDES = (12.0, 128.0)
"""px between which the sides of random boxes are, evenly by their logarithm."""
EDGE = 2
"""px between a box and the edge of the look; what touches the edge may be cut."""
SMALLEST = 4
"""px a box has to measure along both sides."""
PROBABILITY = 255
"""A probability of 1 in ``Lesson.answers``."""


class Readable(Protocol):
    """A slide or a tile."""

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        """(height, width, 3) uint8 RGB of a raster of ``size`` (width, height) px, see ``Slide.read_grid``."""
        ...


class Source(NamedTuple):
    """A picture and its (width, height), px."""

    picture: Readable
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A field and N answers about it.

    Attributes:
        image: (S, S, 3) uint8 RGB, as the student sees it.
        boxes: (N, 4) float32 ``x0, y0, x1, y1``, px of it.
        answers: (N, S, S) uint8, the teacher's probabilities times ``PROBABILITY``; 0 where it did not look.
    """

    image: np.ndarray
    boxes: np.ndarray
    answers: np.ndarray

    def turned(self, *, mirrored: bool, transposed: bool) -> Lesson:
        """The same with left and right, and then x and y swapped."""
        image, boxes, answers = self.image, self.boxes, self.answers
        if mirrored:
            x0, y0, x1, y1 = boxes.T
            size = np.float32(len(image))
            image, boxes, answers = image[:, ::-1], np.stack([size - x1, y0, size - x0, y1], axis=1), answers[..., ::-1]
        if transposed:
            image, boxes, answers = image.swapaxes(0, 1), boxes[:, [1, 0, 3, 2]], answers.swapaxes(1, 2)
        return Lesson(*map(np.ascontiguousarray, (image, boxes, answers)))


@contextmanager
def sources_of(data: Path, slides: Sequence[Path]) -> Iterator[list[Source]]:
    """The training tiles of a folder with a manifest, and slides.

    Raises:
        DatasetError, SlideError, ResolutionError: one of them cannot be read.
    """
    with ExitStack() as stack:
        tiles = [Source(tile, tile.picture.labels.shape[::-1]) for tile in tiles_of(data, TRAIN)]
        opened = [stack.enter_context(open_slide(path)) for path in slides]
        yield tiles + [Source(slide, (slide.info.width, slide.info.height)) for slide in opened]


class Teaching:
    """Makes lessons.

    Args:
        teacher: answers.
        sources: pictures.
        seed: of all draws.
    """

    def __init__(self, teacher: BatchedSegmenter, sources: Sequence[Source], seed: int) -> None:
        self._teacher, self._sources, self._seed = teacher, sources, seed
        self._detector = NucleusDetector(NucleusDetectorPrompts(source="nucleus-detector"))
        areas = np.array([np.prod(source.size) for source in sources], float)
        self._shares = areas / areas.sum()

    def lesson(self, number: int) -> Lesson:
        """A field, equally likely anywhere on the pictures, and answers about it; the same for a seed and a number."""
        random = np.random.default_rng((self._seed, number))
        side = self._teacher.input_size
        source = self._sources[random.choice(len(self._sources), p=self._shares)]
        image = field_of(source, SHRINK * side, random)
        corners = random.integers(0, len(image) - side, (LOOKS, 2), endpoint=True)
        looks = [self._look(image[y : y + side, x : x + side], random) for x, y in corners]
        boxes = [boxes + np.tile(corner, 2) for corner, (boxes, _) in zip(corners, looks, strict=True)]
        answers = np.zeros((sum(map(len, boxes)), *image.shape[:2]), np.uint8)
        first = 0
        for (x, y), (_, given) in zip(corners, looks, strict=True):
            answers[first : first + len(given), y : y + side, x : x + side] = given
            first += len(given)
        return Lesson(image, np.concatenate(boxes).astype(np.float32), answers)

    def _look(self, image: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4) and probabilities (N, s, s) uint8 of one patch (s, s, 3)."""
        pair = PairImages(image[None])
        embedding = self._teacher.encode(pair)

        def ask(boxes: np.ndarray) -> np.ndarray:
            prompts = PromptBatch(np.zeros(len(boxes), np.int64), boxes=boxes.astype(np.float32))
            return self._teacher.decode(embedding, prompts).logits

        nuclei = self._detector.detect(pair, mpp=WORKFLOW.mpp)[0].boxes
        chosen = nuclei[random.permutation(len(nuclei))[:BOXES]]
        # what the teacher sees in a random box is an object with a box that fits
        objects = bounding_boxes(ask(random_boxes(len(image), random)) > 0)
        boxes = np.concatenate([chosen, objects])
        boxes = boxes[clear_of_edge(boxes, len(image))]
        return boxes, (torch.from_numpy(ask(boxes)).sigmoid() * PROBABILITY).round().byte().numpy()


def field_of(source: Source, side: int, random: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8 RGB anywhere on a picture; of a smaller one its corner, and what is made up beyond it."""
    spacing = random.choice(SPACINGS)
    room = np.maximum(np.array(source.size) - side * spacing, 0)
    x, y = np.floor(random.random(2) * room)
    return source.picture.read_grid(Affine2D(spacing, spacing, x, y), (side, side))


def random_boxes(side: int, random: np.random.Generator) -> np.ndarray:
    """(BOXES, 4) on a patch of ``side`` px."""
    extent = np.exp(random.uniform(np.log(SIDES[0]), np.log(SIDES[1]), (BOXES, 2)))
    middle = random.uniform(0, side, (BOXES, 2))
    return np.clip(np.concatenate([middle - extent / 2, middle + extent / 2], axis=1), 0, side)


def clear_of_edge(boxes: np.ndarray, side: int) -> np.ndarray:
    """(N,) bool: boxes (N, 4) that are no mere specks and that the edge of a patch of ``side`` px does not cut."""
    inside = (boxes >= EDGE).all(axis=1) & (boxes <= side - EDGE).all(axis=1)
    found: np.ndarray = inside & (boxes[:, 2:] - boxes[:, :2] >= SMALLEST).all(axis=1)
    return found
