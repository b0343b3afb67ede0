"""Plug-in models without a network: what is dark inside a prompt is the object, and how dark it is its class.

They stand in for the real models wherever a test is about the way of a slide and not about masks.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.registry import ModelSpec
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch, Regions
from wsi_pipeline.workflow import ModelSettings, RecogniseSettings

DARK = 160
"""Grey value below which a pixel belongs to an object."""
POINT_BOX = 24
"""Half side, px, of the box a point stands for."""


@dataclass
class ThresholdSegmenter:
    """``delay`` is the time in seconds that encoding one pair takes, ``fits`` how many pairs it can take at once."""

    delay: float = 0.0
    fits: int = 10**9
    input_size: int = 256
    mask_size: int = 64
    uses_low_patch: bool = False
    n_guesses: int = 1
    prompt_kinds: frozenset[str] = frozenset({"box", "point", "mask"})

    def encode(self, pairs: PairImages) -> np.ndarray:
        """(B, S, S) float32 grey values."""
        if len(pairs) > self.fits:
            raise MemoryError
        time.sleep(self.delay * len(pairs))
        return pairs.high.mean(axis=3, dtype=np.float32)

    def decode(
        self, embedding: np.ndarray, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        size = self.input_size
        boxes = self._boxes(prompts)
        logits = np.full((len(boxes), size, size), -8, np.float32)
        for row, (x0, y0, x1, y1) in enumerate(boxes):
            grey = embedding[prompts.image_index[row], y0:y1, x0:x1]
            logits[row, y0:y1, x0:x1] = np.where(grey < DARK, 6, -6)
        return MaskBatch(logits, np.zeros((len(boxes), 2), np.int64), np.full(len(boxes), 0.9, np.float32))

    def refine(
        self,
        embedding: np.ndarray,
        coarse: np.ndarray,
        image_index: np.ndarray,
        *,
        margin: float | None = None,
        points: int = 0,
    ) -> MaskBatch:
        boxes = bounding_boxes(coarse > 0) * np.float32(self.input_size / self.mask_size)
        return self.decode(embedding, PromptBatch(image_index, boxes=boxes))

    def _boxes(self, prompts: PromptBatch) -> np.ndarray:
        """(N, 4) int64, grown by a pixel and cut to the patch."""
        if prompts.boxes is not None:
            boxes = prompts.boxes + np.array([-2, -2, 2, 2], np.float32)
        else:
            points = np.asarray(prompts.points)[:, 0]
            boxes = np.concatenate([points - POINT_BOX, points + POINT_BOX], axis=1)
        return np.clip(np.rint(boxes), 0, self.input_size).astype(np.int64)


def _build(settings: ModelSettings, *, device: str, dtype: str) -> ThresholdSegmenter:
    asked = os.environ.get
    return ThresholdSegmenter(float(asked("THRESHOLD_MODEL_DELAY", "0")), int(asked("THRESHOLD_MODEL_FITS", "1000")))


GROWTH = 4
"""Px by which a level is wider than the next finer one, on every side."""

SPEC = ModelSpec(
    name="threshold",
    roles=("Segmenter", "Refiner"),
    description="dark pixels inside the prompt, for tests",
    build=_build,
    weight_files=lambda settings: {"backbone": Path(__file__)},
)


@dataclass
class GranularSegmenter(ThresholdSegmenter):
    """A click means the dark object, level 6, and five discs of growing size around it."""

    n_guesses: int = 6
    prompt_kinds: frozenset[str] = frozenset({"box", "point"})

    def decode(
        self, embedding: np.ndarray, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        dark = super().decode(embedding, prompts)
        levels = np.full(len(dark), 6) if prompts.levels is None else prompts.levels
        if guesses:
            levels, dark = np.tile(np.arange(1, 7), len(dark)), dark.take(np.repeat(np.arange(len(dark)), 6))
        logits = np.stack([_grown(one, GROWTH * (6 - level)) for one, level in zip(dark.logits, levels, strict=True)])
        return MaskBatch(logits, dark.origin, dark.iou - np.float32(0.01) * levels.astype(np.float32))


def _grown(logits: np.ndarray, px: int) -> np.ndarray:
    if not px or not (logits > 0).any():
        return logits
    distance = ndimage.distance_transform_edt(logits <= 0)
    return np.where(distance <= px, np.float32(6), np.float32(-6))


@dataclass
class DarknessRecogniser:
    """The first class is dark and the last pale; the others lie between, at equal distances of mean grey."""

    class_names: tuple[str, ...]
    input_size: int | None = None
    uses_low_patch: bool = False

    def encode(self, pairs: PairImages) -> np.ndarray:
        """(B, S, S) float32 grey values."""
        return pairs.high.mean(axis=3, dtype=np.float32)

    def recognise(self, embedding: np.ndarray, regions: Regions) -> np.ndarray:
        centres = np.linspace(80, 220, len(self.class_names), dtype=np.float32)
        grey = np.array([self._grey(embedding, regions, row) for row in range(len(regions))], np.float32)
        likeness = np.exp(-np.abs(grey[:, None] - centres) / np.float32(20))
        return likeness / likeness.sum(axis=1, keepdims=True)

    def _grey(self, embedding: np.ndarray, regions: Regions, row: int) -> np.float32:
        x0, y0, x1, y1 = regions.boxes[row]
        return np.float32(embedding[regions.image_index[row], y0:y1, x0:x1][regions.masks[row]].mean())


GRANULAR = ModelSpec(
    name="granular",
    roles=("Segmenter",),
    description="six masks for each click, for tests",
    build=lambda settings, *, device, dtype: GranularSegmenter(),
    prompt_kinds=frozenset({"box", "point"}),
    weight_files=lambda settings: {"granular": Path(__file__)},
    granular=True,
)


def _build_darkness(settings: ModelSettings, *, device: str, dtype: str) -> DarknessRecogniser:
    assert isinstance(settings, RecogniseSettings)
    size = os.environ.get("DARKNESS_MODEL_SIZE")
    return DarknessRecogniser(settings.names, None if size is None else int(size))


DARKNESS = ModelSpec(
    name="darkness",
    roles=("Recogniser",),
    description="classes by mean grey, for tests",
    build=_build_darkness,
    prompt_kinds=frozenset(),
    weight_files=lambda settings: {"darkness": Path(__file__)},
)
