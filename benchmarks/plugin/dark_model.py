"""A plug-in model that costs next to nothing: the object at a point is the dark pixels around it.

Answers are small windows, so a benchmark that uses it measures everything but a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.models.registry import ModelSpec
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.workflow import SegmentSettings

TILE = 1024
"""Side, px, of the patches it takes."""
WINDOW = 64
"""Side, px, of its answers."""
_DARK = 150
"""Grey values below this belong to objects."""


@dataclass
class DarkSegmenter:
    """A ``Segmenter`` for points."""

    input_size: int = TILE
    mask_size: int = 256
    uses_low_patch: bool = False
    n_guesses: int = 1
    prompt_kinds: frozenset[str] = frozenset({"point"})

    def encode(self, pairs: PairImages) -> np.ndarray:
        """(B, S, S) uint8 green values, in which haematoxylin shows."""
        return pairs.high[..., 1]

    def decode(
        self, embedding: np.ndarray, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        if prompts.points is None:
            raise ValueError("this model is asked with points")
        centre = prompts.points[:, 0].astype(np.int64)
        origin = np.clip(centre - WINDOW // 2, 0, TILE - WINDOW)
        windows = np.lib.stride_tricks.sliding_window_view(embedding, (WINDOW, WINDOW), axis=(1, 2))
        dark = windows[prompts.image_index, origin[:, 1], origin[:, 0]] < _DARK
        hit = embedding[prompts.image_index, centre[:, 1], centre[:, 0]] < _DARK
        logits = np.where(dark, np.float32(6), np.float32(-6))
        return MaskBatch(logits, origin, np.where(hit, np.float32(0.9), np.float32(0)))


def _build(settings: SegmentSettings, *, device: str, dtype: str) -> DarkSegmenter:
    return DarkSegmenter()


SPEC = ModelSpec(
    name="dark",
    roles=("Segmenter",),
    description="the dark pixels around a point, for benchmarks",
    build=_build,
    prompt_kinds=frozenset({"point"}),
)
