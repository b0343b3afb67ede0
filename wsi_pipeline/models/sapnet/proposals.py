"""What a click may mean: masks of any segmenter, of the patch itself and of its surroundings.

Layout: n clicks, M proposals for each, patches of S px.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.coarse_prompts import bounding_boxes
from wsi_pipeline.models.roles import PairImages, PromptBatch, Segmenter
from wsi_pipeline.models.tensor_store import Tensors
from wsi_pipeline.segment.components import BACKGROUND, own_logits, own_parts, point_seeds
from wsi_pipeline.segment.decoding import ANSWER_PX

MARGIN = 0.5
"""Boxes are asked about in windows grown by this share of their size."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """M masks for each of n clicks.

    Attributes:
        packed: (n, M, S, S / 8) uint8, the bits of the masks, row by row.
        boxes: (n, M, 4) float32 ``x0, y0, x1, y1`` around them, px; of no size where a mask is empty.
        scores: (n, M) float32, what the segmenter thinks of them.
    """

    packed: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def valid(self) -> np.ndarray:
        """(n, M) bool, which masks hold their click; the others are empty."""
        return np.asarray((self.boxes[..., 2:] > self.boxes[..., :2]).all(axis=-1))

    def all_masks(self) -> np.ndarray:
        """(n, M, S, S) bool."""
        return np.unpackbits(self.packed, axis=-1).view(bool)

    def take(self, rows: np.ndarray) -> Proposals:
        """Those of some of the clicks."""
        return Proposals(self.packed[rows], self.boxes[rows], self.scores[rows])

    def tensors(self) -> Tensors:
        """As they are kept on disk."""
        return {name: torch.from_numpy(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def of(cls, tensors: Tensors) -> Proposals:
        """What ``tensors`` gave."""
        return cls(**{name: value.numpy() for name, value in tensors.items()})

    @classmethod
    def of_logits(cls, logits: np.ndarray, scores: np.ndarray) -> Proposals:
        """Of (n, M, S, S) float, above 0 in the masks, and (n, M) scores."""
        masks = logits > 0
        boxes = bounding_boxes(masks.reshape(-1, *masks.shape[2:])).reshape(*masks.shape[:2], 4)
        boxes[~masks.any(axis=(2, 3))] = 0
        return cls(np.packbits(masks, axis=-1), boxes, scores.astype(np.float32))

    @classmethod
    def none(cls, count: int, size: int) -> Proposals:
        """Those of no clicks, ``count`` for each, on patches of ``size`` px."""
        return cls.of_logits(np.zeros((0, count, size, size), np.float32), np.zeros((0, count), np.float32))

    @classmethod
    def joined(cls, parts: Sequence[Proposals]) -> Proposals:
        """Those of several lots of clicks, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


class PatchEmbedding(NamedTuple):
    """What a segmenter made of B pairs.

    Attributes:
        high: of the high patches.
        low: of the low ones, which it sees as it does high ones; None where they are not asked about.
        context_factor: how much farther the low patches see.
    """

    high: Any
    low: Any | None
    context_factor: float


class MaskProposals:
    """Asks a segmenter about clicks: with the points for its guesses, or else with boxes of some sizes around them.

    Args:
        segmenter: takes points and gives several guesses, or takes boxes.
        sides: of the boxes, px; as many as there are proposals of a patch.
        low_patch: whether it is asked about the low patch, too; those proposals come after those of the high patch.

    Attributes:
        count: M.

    Raises:
        WorkflowError: it takes neither, or would have to look around the low patch.
    """

    def __init__(self, segmenter: Segmenter, sides: Sequence[float], *, low_patch: bool) -> None:
        self._segmenter, self._sides = segmenter, np.asarray(sides, np.float32)
        self._by_points = "point" in segmenter.prompt_kinds and segmenter.n_guesses > 1
        self.uses_low_patch = low_patch
        if not self._by_points and "box" not in segmenter.prompt_kinds:
            fix = "Use one that takes points and guesses, or takes boxes"
            raise WorkflowError("the segmenter gives one mask for a click", where="proposer", fix=fix)
        if low_patch and segmenter.uses_low_patch:
            fix = "Set low_patch to false: it looks at both patches by itself"
            raise WorkflowError("the segmenter cannot be asked about low patches alone", where="proposer", fix=fix)
        self.count = (segmenter.n_guesses if self._by_points else len(self._sides)) * (1 + low_patch)

    def encode(self, pairs: PairImages) -> PatchEmbedding:
        """Embed B pairs.

        Raises:
            ValueError: the low patches are wanted and missing.
        """
        if not self.uses_low_patch:
            return PatchEmbedding(self._segmenter.encode(pairs), None, pairs.context_factor)
        if pairs.low is None:
            raise ValueError("clicks are asked about on pairs of patches; the low ones are missing")
        high, low = (self._segmenter.encode(PairImages(images)) for images in (pairs.high, pairs.low))
        return PatchEmbedding(high, low, pairs.context_factor)

    def propose(self, embedding: PatchEmbedding, image: int, points: np.ndarray) -> Proposals:
        """The proposals for clicks (n, 2) float32 (x, y) px on one image; none for none."""
        parts = [Proposals.none(self.count, self._segmenter.input_size)]
        parts += [Proposals.of_logits(*drawn) for drawn in self.draw(embedding, np.full(len(points), image), points)]
        return Proposals.joined(parts)

    def draw(
        self, embedding: PatchEmbedding, image_index: np.ndarray, points: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits (k, M, S, S) float32 and predicted IoU (k, M) of lots of clicks that fit in memory, in order.

        Above 0 is only what is connected with the click; a proposal that does not hold its click is empty.

        Args:
            embedding: of B pairs.
            image_index: (n,) which pair each click is on.
            points: (n, 2) float32 (x, y) px.
        """
        size = self._segmenter.input_size
        step = max(1, ANSWER_PX // (self.count * size**2))
        for start in range(0, len(points), step):
            images, some = image_index[start : start + step], points[start : start + step]
            answers = [self._ask(embedding.high, images, some)]
            if embedding.low is not None:
                around = size / 2 + (some - size / 2) / embedding.context_factor
                logits, iou = self._ask(embedding.low, images, around.astype(np.float32))
                answers.append((_enlarged(logits, embedding.context_factor), iou))
            logits, iou = (np.concatenate(parts, axis=1) for parts in zip(*answers, strict=True))
            yield _that_hold(logits, some), iou

    def _ask(self, embedding: Any, images: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, k, S, S) logits and (n, k) predicted IoU on patches of one kind."""
        if self._by_points:
            prompts = PromptBatch(images, points=points[:, None], point_labels=np.ones((len(points), 1), np.int64))
            answer = self._segmenter.decode(embedding, prompts, guesses=True)
        else:
            boxes = _boxes(points, self._sides, self._segmenter.input_size)
            prompts = PromptBatch(images.repeat(len(self._sides)), boxes=boxes)
            answer = self._segmenter.decode(embedding, prompts, margin=MARGIN)
        whole = answer.logits_on_patch(self._segmenter.input_size, BACKGROUND)
        return whole.reshape(len(points), -1, *whole.shape[1:]), answer.iou.reshape(len(points), -1)


def _boxes(points: np.ndarray, sides: np.ndarray, size: int) -> np.ndarray:
    """(n * k, 4) float32 squares around points (n, 2), within a patch of ``size`` px; those of a point together."""
    half = sides[:, None] / 2
    corners = [points[:, None] - half, points[:, None] + half]
    return np.concatenate(corners, axis=2).reshape(-1, 4).clip(0, size).astype(np.float32)


def _enlarged(logits: np.ndarray, factor: float) -> np.ndarray:
    """The middle of low patches (n, k, S, S) at the px of the high ones."""
    theta = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(logits), 2, 3)
    grid = F.affine_grid(theta, list(logits.shape), align_corners=False)
    return F.grid_sample(torch.from_numpy(logits), grid, padding_mode="border", align_corners=False).numpy()


def _that_hold(logits: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Logits (n, k, S, S) without what does not meet the click (n, 2)."""
    flat = logits.reshape(-1, *logits.shape[2:])
    clicks = points.repeat(logits.shape[1], axis=0)[:, None]
    seeds = point_seeds(flat, np.zeros((len(flat), 2), np.int64), clicks, np.ones(clicks.shape[:2], bool))
    return own_logits(flat, own_parts(flat, seeds, parts="every")).reshape(logits.shape)
