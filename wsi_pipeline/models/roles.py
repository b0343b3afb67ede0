"""What a model can be asked, as four Protocols; every published system plays at least one of them.

Images come as uint8 RGB arrays exactly as read from the slide; normalising, padding and moving to a device
is the model's business. Prompt coordinates are px of the high patch, integers at pixel corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, slots=True)
class PairImages:
    """Pixels of B patch pairs.

    Attributes:
        high: (B, S, S, 3) uint8 RGB at the working mpp.
        low: (B, S, S, 3) uint8 RGB of the same centres at ``context_factor`` times the mpp, or None when the
            model looks at one patch only.
        context_factor: how much farther the low patch sees.
    """

    high: np.ndarray
    low: np.ndarray | None = None
    context_factor: float = 2.0

    def __len__(self) -> int:
        return len(self.high)


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """N prompts on B encoded pairs, all of the same make-up.

    Attributes:
        image_index: (N,) int64, which of the B pairs each prompt asks about.
        boxes: (N, 4) float32 ``x0, y0, x1, y1`` in high-patch px, or None.
        points: (N, K, 2) float32 (x, y) in high-patch px, or None.
        point_labels: (N, K) int64, 1 inside, 0 outside, -1 padding; None when ``points`` is None.
        masks: (N, M, M) float32 coarse mask logits over the whole high patch (M = the model's low-res mask
            size), or None.
    """

    image_index: np.ndarray
    boxes: np.ndarray | None = None
    points: np.ndarray | None = None
    point_labels: np.ndarray | None = None
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_index)


@dataclass(frozen=True, slots=True)
class MaskBatch:
    """Answers to N prompts, each a window of the high patch at the patch's own resolution.

    Attributes:
        logits: (N, h, w) float32 mask logits, one value per high-patch px; inside the object above 0.
        origin: (N, 2) int64 (x, y) of each window's top-left px in the high patch; everything outside the
            window is background.
        iou: (N,) float32 predicted IoU.
    """

    logits: np.ndarray
    origin: np.ndarray
    iou: np.ndarray

    def __len__(self) -> int:
        return len(self.logits)


@runtime_checkable
class Segmenter(Protocol):
    """Which pixels?"""

    input_size: int
    """S: side in px of the square patches it takes."""
    mask_size: int
    """M: side in px of the coarse masks it takes as prompts."""
    uses_low_patch: bool
    prompt_kinds: frozenset[str]
    """Subset of ``{"box", "point", "mask"}``."""

    def encode(self, pairs: PairImages) -> Any:
        """Embed B pairs once; the result is opaque and goes to ``decode``."""
        ...

    def decode(self, embedding: Any, prompts: PromptBatch, *, margin: float | None = None) -> MaskBatch:
        """Answer N prompts in batches.

        Args:
            embedding: what ``encode`` returned.
            prompts: the questions.
            margin: with a box prompt, decode only the box grown by this share of its size on every side
                (the rest is background); None decodes the whole patch.
        """
        ...


@dataclass(frozen=True, slots=True)
class Detections:
    """What a prompter found worth asking about in one pair.

    Attributes:
        boxes: (N, 4) float32 in high-patch px.
        scores: (N,) float32 in [0, 1].
        points: (N, 2) float32 one point inside each object, high-patch px.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray


@runtime_checkable
class Prompter(Protocol):
    """What is worth asking here?"""

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """Find candidate objects in B pairs; ``mpp`` is µm per px of the high patches."""
        ...


@runtime_checkable
class Recogniser(Protocol):
    """What is it?"""

    def recognise(self, pairs: PairImages, masks: MaskBatch, image_index: np.ndarray, classes: list[str]) -> np.ndarray:
        """Class probabilities (N, C) float32 of N masks on B pairs."""
        ...


@runtime_checkable
class Refiner(Protocol):
    """Can it be sharper?"""

    def refine(self, embedding: Any, coarse: np.ndarray, image_index: np.ndarray) -> MaskBatch:
        """Sharper masks from coarse logits (N, M, M) float32 over the whole high patch."""
        ...
