"""What pass 1 leaves on disk: the objects and logits of one batch of tiles.

Objects live on the working grid (see ``PixelGrid``); a mask is kept as packed bits of its bounding box, so a
batch of a thousand nuclei is a few tens of kilobytes. Tile logits are kept at 1/16 logit per step, which is
finer than the 8-bit probability made from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from wsi_pipeline.arrays import load_arrays, save_arrays

LOGIT_STEPS = 16.0
"""Steps per logit of the quantised tile logits; the range is about -8 … 8."""

NOT_REFINED, REFINED, KEPT_COARSE = 0, 1, 2
"""What the refine stage made of an object: nothing, a sharper mask, or one so different that the coarse mask stayed."""

SEAM_LEFT, SEAM_TOP, SEAM_RIGHT, SEAM_BOTTOM = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class ObjectBatch:
    """N objects of one batch of T tiles.

    Attributes:
        bbox: (N, 4) int32 ``x0, y0, x1, y1`` (exclusive), px of the working grid.
        bits: (bytes,) uint8, the boolean masks of all boxes, row-major, packed one after the other.
        offset: (N + 1,) int64, where in ``bits`` each mask starts.
        class_id: (N,) int16, index into the run's class list; 0 is unclassified.
        iou: (N,) float32 predicted IoU.
        stability: (N,) float32 IoU of the masks at logit +1 and -1.
        detection: (N,) float32 score of the prompter; NaN where the prompt came from a person.
        tile: (N,) int32 index of the tile; -1 in prompted runs.
        seam: (N,) uint8, sides of its tile (``SEAM_*``) that cut the object.
        refined: (N,) uint8, one of ``NOT_REFINED``, ``REFINED`` and ``KEPT_COARSE``.
        prompt_id: (N,) unicode, id of the source annotation or "".
        probabilities: (N, C) float32 of the classes of the recognise stage, NaN where it did not see the object; C is
            0 without one.
        logits: (T, S, S) int8 quantised tile logits, the largest over the tile's objects; T is 0 in prompted runs.
        logits_xy: (T, 2) int32 grid px of each tile's top-left corner.
    """

    bbox: np.ndarray
    bits: np.ndarray
    offset: np.ndarray
    class_id: np.ndarray
    iou: np.ndarray
    stability: np.ndarray
    detection: np.ndarray
    tile: np.ndarray
    seam: np.ndarray
    refined: np.ndarray
    prompt_id: np.ndarray
    probabilities: np.ndarray
    logits: np.ndarray
    logits_xy: np.ndarray

    def __len__(self) -> int:
        return len(self.bbox)

    def mask(self, index: int) -> np.ndarray:
        """The (h, w) bool mask of one object inside its bounding box."""
        x0, y0, x1, y1 = self.bbox[index]
        height, width = int(y1 - y0), int(x1 - x0)
        packed = self.bits[self.offset[index] : self.offset[index + 1]]
        return np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)

    def areas(self, index: np.ndarray) -> np.ndarray:
        """(K,) int64 px of the masks of some objects."""
        ones = np.concatenate([[0], np.cumsum(np.bitwise_count(self.bits), dtype=np.int64)])
        return ones[self.offset[index + 1]] - ones[self.offset[index]]

    def save(self, path: Path) -> None:
        """Write the batch beside ``path`` and rename it, so that a file that exists is whole."""
        save_arrays(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path, *, logits: bool = True) -> ObjectBatch:
        """What ``save`` wrote; without ``logits``, by far the largest part, the batch has no tiles."""
        members = load_arrays(path, [f.name for f in fields(cls) if logits or not f.name.startswith("logits")])
        if not logits:
            members |= {"logits": np.zeros((0, 0, 0), np.int8), "logits_xy": np.zeros((0, 2), np.int32)}
        return cls(**members)


def pack_masks(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pack (h, w) bool masks of any sizes; returns ``bits`` and ``offset`` of ``ObjectBatch``."""
    packed = [np.packbits(mask) for mask in masks]
    offset = np.zeros(len(packed) + 1, np.int64)
    np.cumsum([len(p) for p in packed], out=offset[1:])
    return (np.concatenate(packed) if packed else np.zeros(0, np.uint8)), offset


def quantise_logits(logits: np.ndarray) -> np.ndarray:
    """float logits → int8 steps."""
    return np.clip(np.rint(logits * LOGIT_STEPS), -128, 127).astype(np.int8)
