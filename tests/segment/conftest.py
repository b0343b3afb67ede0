"""A slide of dark ellipses, a model that sees dark pixels, and a prompter that boxes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.models.roles import Detections, MaskBatch, PairImages, PromptBatch
from wsi_pipeline.segment.objects import ObjectBatch
from wsi_pipeline.workflow import Workflow, parse_workflow

Ellipse = tuple[float, float, float, float]
"""Middle x, y and half axes, level-0 px."""


@dataclass
class EllipseSlide:
    """White with dark ellipses; a px of any raster is dark when its centre is in one. White outside 0 ... size."""

    ellipses: Sequence[Ellipse]
    width: int = 400
    height: int = 300
    reads: list[tuple[int, int]] = field(default_factory=list)

    def dark(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        x = to_level0.tx + to_level0.sx * (np.arange(size[0]) + 0.5)
        y = to_level0.ty + to_level0.sy * (np.arange(size[1]) + 0.5)
        dark = np.zeros((size[1], size[0]), bool)
        for cx, cy, a, b in self.ellipses:
            dark |= ((x - cx) / a)[None, :] ** 2 + ((y - cy) / b)[:, None] ** 2 < 1
        inside = ((y > 0) & (y < self.height))[:, None] & ((x > 0) & (x < self.width))[None, :]
        return dark & inside

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        self.reads.append(size)
        return np.where(self.dark(to_level0, size)[:, :, None], np.uint8(40), np.uint8(255)).repeat(3, axis=2)

    def on(self, grid: PixelGrid) -> np.ndarray:
        return self.dark(grid.to_level0, (grid.width, grid.height))


@dataclass
class DarkSegmenter:
    """Answers every prompt with all dark px of its window, as sharp logits of ±6."""

    input_size: int = 64
    mask_size: int = 16
    uses_low_patch: bool = True
    n_guesses: int = 1
    prompt_kinds: frozenset[str] = frozenset({"box", "point", "mask"})
    iou: float = 0.9
    encoded: list[PairImages] = field(default_factory=list)
    asked: list[tuple[PromptBatch, float | None]] = field(default_factory=list)

    def encode(self, pairs: PairImages) -> Any:
        assert (pairs.low is not None) == self.uses_low_patch
        self.encoded.append(pairs)
        return pairs

    def decode(
        self, embedding: PairImages, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        self.asked.append((prompts, margin))
        size, count = self.input_size, len(prompts)
        x0y0, x1y1 = np.zeros((count, 2), int), np.full((count, 2), size)
        if margin is not None and prompts.boxes is not None:
            grow = margin * (prompts.boxes[:, 2:] - prompts.boxes[:, :2])
            x0y0 = np.floor(np.maximum(prompts.boxes[:, :2] - grow, 0)).astype(int)
            x1y1 = np.ceil(np.minimum(prompts.boxes[:, 2:] + grow, size)).astype(int)
        width, height = (x1y1 - x0y0).max(axis=0)
        logits = np.full((count, height, width), -20, np.float32)
        for i, image in enumerate(prompts.image_index):
            (x0, y0), (x1, y1) = x0y0[i], x1y1[i]
            dark = embedding.high[image, y0:y1, x0:x1, 0] < 128
            logits[i, : y1 - y0, : x1 - x0] = np.where(dark, 6, -6)
        return MaskBatch(logits, x0y0.astype(np.int64), np.full(count, self.iou, np.float32))


@dataclass
class DarkRefiner:
    """Answers every coarse mask with the dark px around it, as sharp logits of ±6 over the whole patch."""

    input_size: int = 64
    mask_size: int = 16
    uses_low_patch: bool = True
    answers: bool = True
    encoded: list[PairImages] = field(default_factory=list)
    asked: list[tuple[np.ndarray, float | None, int]] = field(default_factory=list)

    def encode(self, pairs: PairImages) -> Any:
        self.encoded.append(pairs)
        return pairs

    def refine(self, embedding: PairImages, coarse, image_index, *, margin=None, points=0) -> MaskBatch:
        self.asked.append((coarse, margin, points))
        size, px = self.input_size, self.input_size // self.mask_size
        logits = np.full((len(coarse), size, size), -6, np.float32)
        for row, image in enumerate(image_index):
            near = ndimage.binary_dilation((coarse[row] > 0).repeat(px, 0).repeat(px, 1), iterations=3)
            labels, _ = ndimage.label(embedding.high[image, :, :, 0] < 128)
            touched = np.setdiff1d(np.unique(labels[near]), [0])
            logits[row][np.isin(labels, touched) & self.answers] = 6
        return MaskBatch(logits, np.zeros((len(coarse), 2), np.int64), np.full(len(coarse), 0.8, np.float32))


@dataclass
class DarkPrompter:
    """A box (or only a point) around every dark component of a patch."""

    points_only: bool = False
    order: Callable[[int], np.ndarray] = np.arange
    seen: int = 0

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        self.seen += len(pairs)
        return [self._detect(image) for image in pairs.high]

    def _detect(self, image: np.ndarray) -> Detections:
        labels, count = ndimage.label(image[..., 0] < 128)
        slices = ndimage.find_objects(labels)
        boxes = np.array([(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in slices], np.float32).reshape(-1, 4)
        points = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, count + 1)), np.float32)
        points = points.reshape(-1, 2)[:, ::-1] + np.float32(0.5)
        if self.points_only:
            boxes = np.full_like(boxes, np.nan)
        order = self.order(count)
        return Detections(boxes[order], np.linspace(0.5, 1, count, dtype=np.float32)[order], points[order])


def whole_mask(objects: ObjectBatch, index: int, grid: PixelGrid) -> np.ndarray:
    canvas = np.zeros((grid.height, grid.width), bool)
    x0, y0, x1, y1 = objects.bbox[index]
    canvas[y0:y1, x0:x1] = objects.mask(index)
    return canvas


@pytest.fixture
def workflow() -> Callable[..., Workflow]:
    def build(source: str = "nucleus-detector", context_factor: float = 2.0, **segment: Any) -> Workflow:
        data = {
            "name": "test",
            "mpp": 0.5,
            "tiling": {"context_factor": context_factor},
            "prompts": {"source": source},
            "segment": {"model": "fake", **segment},
        }
        return parse_workflow(data)

    return build


@pytest.fixture
def fakes() -> Any:
    """The classes above, for tests to build."""

    class Fakes:
        slide = EllipseSlide
        segmenter = DarkSegmenter
        prompter = DarkPrompter
        refiner = DarkRefiner
        mask = staticmethod(whole_mask)

    return Fakes
