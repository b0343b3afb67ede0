"""What a model can be asked, as Protocols; every published system plays at least one of them.

Images come as uint8 RGB arrays exactly as read from the slide; normalising, padding and moving to a device
is the model's business. Prompt coordinates are px of the high patch, integers at pixel corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

SLIDE_PATCHES = 16
"""Patches spread over a slide that say what it looks like on the whole; each of them is encoded once more."""


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
        levels: (N,) int64, the granularity each prompt asks for, see ``granularity``; None where the model chooses.
        classes: (N,) str, the class each object is said to be of, empty where nobody said; or None.
    """

    image_index: np.ndarray
    boxes: np.ndarray | None = None
    points: np.ndarray | None = None
    point_labels: np.ndarray | None = None
    masks: np.ndarray | None = None
    levels: np.ndarray | None = None
    classes: np.ndarray | None = None

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

    def take(self, rows: np.ndarray) -> MaskBatch:
        """Some of the answers, by number or as (N,) bool."""
        return MaskBatch(self.logits[rows], self.origin[rows], self.iou[rows])

    def on_patch(self, size: int) -> np.ndarray:
        """(N, size, size) bool masks on the whole patch."""
        return self._placed(self.logits > 0, np.zeros((len(self), size, size), bool))

    def logits_on_patch(self, size: int, outside: float) -> np.ndarray:
        """(N, size, size) float32 logits on the whole patch, ``outside`` where no window is."""
        if self.logits.shape[1:] == (size, size):
            return self.logits
        return self._placed(self.logits, np.full((len(self), size, size), outside, np.float32))

    def _placed(self, windows: np.ndarray, patches: np.ndarray) -> np.ndarray:
        height, width = windows.shape[1:]
        for patch, window, (x, y) in zip(patches, windows, self.origin, strict=True):
            patch[y : y + height, x : x + width] = window
        return patches


@runtime_checkable
class Segmenter(Protocol):
    """Which pixels?"""

    input_size: int
    """S: side in px of the square patches it takes."""
    mask_size: int
    """M: side in px of the coarse masks it takes as prompts."""
    uses_low_patch: bool
    n_guesses: int
    """Masks per prompt that ``decode`` gives when asked for all guesses; 1 for models that make up their mind."""
    prompt_kinds: frozenset[str]
    """Subset of ``{"box", "point", "mask"}``."""

    def encode(self, pairs: PairImages) -> Any:
        """Embed B pairs once; the result is opaque and goes to ``decode``."""
        ...

    def decode(
        self, embedding: Any, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        """Answer N prompts in batches.

        Args:
            embedding: what ``encode`` returned.
            prompts: the questions.
            margin: with a box prompt, decode only the box grown by this share of its size on every side
                (the rest is background); None decodes the whole patch.
            guesses: give ``n_guesses`` answers to each prompt, one after the other, instead of one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Instances:
    """N objects that a model found on one pair by itself.

    Attributes:
        masks: of the objects; where the model predicts no IoU, ``masks.iou`` is the score once more.
        boxes: (N, 4) float32 ``x0, y0, x1, y1`` in high-patch px: where it saw each object, and where its mask belongs.
        scores: (N,) float32 in [0, 1].
        classes: (N,) int64, class n is ``class_names[n - 1]`` of the model; 0 for objects without a class.
    """

    masks: MaskBatch
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray) -> Instances:
        """Some of the objects, by number."""
        return Instances(self.masks.take(rows), self.boxes[rows], self.scores[rows], self.classes[rows])


def objects_on_patch(groups: Sequence[Instances], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All objects of one pair, the surest first.

    Args:
        groups: as ``InstanceSegmenter.find`` gives them.
        size: S, side of the patches, px.

    Returns:
        (n, S, S) bool masks, (n,) scores and (n,) int64 classes, as of ``Instances``.
    """
    masks = np.concatenate([np.zeros((0, size, size), bool), *(group.masks.on_patch(size) for group in groups)])
    scores = np.concatenate([np.zeros(0, np.float32), *(group.scores for group in groups)])
    classes = np.concatenate([np.zeros(0, np.int64), *(group.classes for group in groups)])
    order = np.argsort(-scores, kind="stable")
    return masks[order], scores[order], classes[order]


@runtime_checkable
class InstanceSegmenter(Protocol):
    """Which objects, and which pixels of each? It needs no prompts."""

    input_size: int
    """S: side in px of the square patches it takes."""
    uses_low_patch: bool
    class_names: tuple[str, ...]
    """Classes it tells apart; empty where it does not name what it finds."""

    def find(self, pairs: PairImages, *, mpp: float, min_score: float, max_objects: int) -> list[list[Instances]]:
        """Find and draw the objects of B pairs.

        Args:
            pairs: the images.
            mpp: µm per px of the high patches.
            min_score: objects need this score.
            max_objects: the most objects of a pair.

        Returns:
            For each pair its objects in groups whose windows are of one size, so that a single large object does not
            make the windows of a thousand small ones large.
        """
        ...


@dataclass(frozen=True, slots=True)
class Detections:
    """What a prompter found worth asking about in one pair.

    Attributes:
        boxes: (N, 4) float32 in high-patch px.
        scores: (N,) float32 in [0, 1].
        points: (N, 2) float32 one point inside each object, high-patch px.
        classes: (N,) int64, class n is ``class_names[n - 1]`` of the prompter; None where it tells none apart.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray
    classes: np.ndarray | None = None


@runtime_checkable
class Prompter(Protocol):
    """What is worth asking here?"""

    input_size: int | None
    """Side in px of the square patches it takes; None for any."""
    uses_low_patch: bool

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """Find candidate objects in B pairs; ``mpp`` is µm per px of the high patches."""
        ...


@dataclass(frozen=True, slots=True)
class Regions:
    """N masks on B pairs, each in its box.

    Attributes:
        image_index: (N,) int64, the pair of each.
        boxes: (N, 4) int64 ``x0, y0, x1, y1`` (exclusive), px of the high patch, within it and not empty.
        masks: N bool arrays, each (y1 - y0, x1 - x0) of its box.
    """

    image_index: np.ndarray
    boxes: np.ndarray
    masks: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.image_index)


@runtime_checkable
class Recogniser(Protocol):
    """What is it? It is built for a vocabulary."""

    input_size: int | None
    """S: side in px of the square patches it takes; None for any."""
    uses_low_patch: bool
    class_names: tuple[str, ...]
    """The C classes, in the order of the probabilities."""

    def encode(self, pairs: PairImages) -> Any:
        """Embed B pairs once; the result is opaque and goes to ``recognise``."""
        ...

    def recognise(self, embedding: Any, regions: Regions) -> np.ndarray:
        """(N, C) float32 probabilities of the classes of N regions; rows sum to 1."""
        ...


@runtime_checkable
class SlideAware(Protocol):
    """A model that wants to know what a slide looks like on the whole before it is asked about tiles."""

    learns_slide: bool
    """Whether it does with its settings."""

    def look(self, pairs: PairImages) -> np.ndarray:
        """What it wants to keep of B patches spread over the slide, float32, one row for each."""
        ...

    def knowing(self, seen: np.ndarray) -> Any:
        """The same model for the slide of which ``look`` gave these rows; shares all networks."""
        ...


@runtime_checkable
class Refiner(Protocol):
    """Can it be sharper?"""

    input_size: int
    """S: side in px of the square patches it takes."""
    mask_size: int
    """M: side in px of the coarse masks it takes."""
    uses_low_patch: bool

    def encode(self, pairs: PairImages) -> Any:
        """Embed B pairs once; the result is opaque and goes to ``refine``."""
        ...

    def refine(
        self,
        embedding: Any,
        coarse: np.ndarray,
        image_index: np.ndarray,
        *,
        margin: float | None = None,
        points: int = 0,
    ) -> MaskBatch:
        """Draw N masks again.

        Args:
            embedding: what ``encode`` returned.
            coarse: (N, M, M) float32 logits over the whole high patch; inside above 0.
            image_index: (N,) int64, the pair of each.
            margin: answer only in the mask's box grown by this share of its size on every side; None for the whole
                patch.
            points: points on the mask's middle line to ask with besides, where the model takes points.
        """
        ...
