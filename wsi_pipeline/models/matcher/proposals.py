"""Masks that a segmenter proposes for the matches of a class, scored and chosen (Matcher §3.2 and §3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from skimage.transform import resize
from torchvision.ops import nms

from wsi_pipeline.models.collected import BACKGROUND_LOGIT
from wsi_pipeline.models.evidence import STRONGEST, with_evidence
from wsi_pipeline.models.matcher import prompts, score
from wsi_pipeline.models.matcher.merge import Metrics, adding, apart, select, survivors
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.matcher.sight import SMALLEST, Sight
from wsi_pipeline.models.roles import MaskBatch, PromptBatch, Segmenter
from wsi_pipeline.segment.components import stability, tight_boxes

DENSE = (0.88, 0.95)
"""Least predicted IoU and stability of what the points of a dense grid give, as published."""
AT_ONCE = 64
"""Prompts whose masks are held with all their px."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """M masks on an image.

    Attributes:
        logits: (M, S, S) float32 of the whole image; inside above 0.
        iou: (M,) float32 predicted.
        scores: (M,) how well they fit the examples; zeros before that is known.
    """

    logits: np.ndarray
    iou: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, answers: Sequence[MaskBatch], size: int) -> Drawn:
        """What a segmenter answered about an image of ``size`` px."""
        none = np.zeros((0, size, size), np.float32)
        logits = np.concatenate([none, *(answer.logits_on_patch(size, BACKGROUND_LOGIT) for answer in answers)])
        iou = np.concatenate([np.zeros(0, np.float32), *(answer.iou for answer in answers)])
        return cls(logits, iou, np.zeros(len(logits)))

    def __len__(self) -> int:
        return len(self.iou)

    @property
    def masks(self) -> np.ndarray:
        """(M, S, S) bool."""
        return self.logits > 0

    def take(self, rows: np.ndarray, scores: np.ndarray | None = None) -> Drawn:
        """Some of them, by number, with scores if they are known by now."""
        return Drawn(self.logits[rows], self.iou[rows], self.scores[rows] if scores is None else scores)

    def with_evidence(self, evidence: np.ndarray) -> Drawn:
        """The same masks with evidence (S, S) where they are in doubt, if anything is left; see ``evidence``."""
        logits = with_evidence(self.logits, evidence)
        return Drawn(logits, self.iou, self.scores).take(np.flatnonzero((logits > 0).any(axis=(1, 2))))

    def joined(self, logits: np.ndarray) -> Drawn:
        """With more masks (N, S, S), which are trusted as little as the worst of these."""
        worst = (np.full(len(logits), one.min(), one.dtype) for one in (self.iou, self.scores))
        iou, scores = (np.concatenate(both) for both in zip((self.iou, self.scores), worst, strict=True))
        return Drawn(np.concatenate([self.logits, logits]), iou, scores)

    def united(self) -> Drawn:
        """One mask of all, with what is known of the first."""
        return Drawn(self.logits.max(axis=0, keepdims=True), self.iou[:1], self.scores[:1])


class Proposer:
    """Asks a segmenter about what is seen of a class on an image, and keeps the masks that fit the examples.

    Args:
        segmenter: draws the masks.
        settings: which prompts, and which masks.
        margin: boxes are drawn in windows grown by this share of their size; None for the whole patch.
    """

    def __init__(self, segmenter: Segmenter, settings: MatcherSettings, margin: float | None) -> None:
        self._segmenter, self._settings, self._margin = segmenter, settings, margin
        self._size = segmenter.input_size

    def draw(self, embedding: object, image: int, sight: Sight, random: np.random.Generator) -> Drawn:
        """The masks of a class on an image.

        Args:
            embedding: what the segmenter's ``encode`` gave.
            image: which of its images.
            sight: what is seen of the class there.
            random: what is drawn with.
        """
        settings, drawn = self._settings, self._propose(embedding, image, sight, random)
        if not len(drawn):
            return drawn
        drawn = drawn.take(*self._scored(drawn, sight))
        likeness = _enlarged(sight.likeness, self._size)
        if settings.likeness_check:
            drawn = drawn.take(adding(drawn.masks, np.arange(len(drawn)), likeness))
        if settings.merge == "instances" and len(drawn):
            drawn = drawn.take(apart(drawn.masks, np.arange(len(drawn)), settings.max_overlap))
        if settings.likeness_logit:
            drawn = drawn.with_evidence(likeness / settings.likeness_logit)
        if settings.likeness_objects and len(drawn):
            drawn = drawn.joined(uncovered(drawn.masks, likeness, SMALLEST * (self._size / sight.grid) ** 2))
        return drawn.united() if settings.merge == "union" and len(drawn) else drawn

    def _scored(self, drawn: Drawn, sight: Sight) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the masks that are chosen, the best first, and their scores."""
        patches = score.grid_of(drawn.masks, sight.grid).reshape(len(drawn), -1)
        points = sight.points(self._size)
        inside = score.held(drawn.masks, points)
        purity = score.purity(inside, np.count_nonzero(patches, axis=1))
        coverage = score.coverage(inside, len(points))
        rows = survivors(coverage, purity, self._settings)
        transport = score.transport_score(sight.similarity, patches[rows], sight.weights)
        metrics = Metrics(coverage[rows], transport, purity[rows])
        chosen = select(metrics, self._settings)
        return rows[chosen], metrics.score(self._settings)[chosen]

    def _propose(self, embedding: object, image: int, sight: Sight, random: np.random.Generator) -> Drawn:
        """Masks that are not empty and pass the limits on what the segmenter says of them."""
        settings = self._settings
        guesses = settings.guesses and self._segmenter.n_guesses > 1
        least = settings.min_predicted_iou, settings.min_stability
        answers = [
            self._answered(embedding, batch, *least, guesses=guesses) for batch in self._prompts(image, sight, random)
        ]
        if settings.dense_grid and self._takes_points:
            points = _regular(settings.dense_grid, self._size)
            answers += [self._answered(embedding, batch, *DENSE) for batch in _batches(points, image, None)]
        drawn = Drawn.of(answers, self._size)
        if settings.box_nms < 1 and len(drawn):
            boxes, iou = (torch.from_numpy(one.astype(np.float32)) for one in (tight_boxes(drawn.masks), drawn.iou))
            drawn = drawn.take(nms(boxes, iou, settings.box_nms).numpy())
        return drawn

    def _answered(
        self, embedding: object, batch: PromptBatch, least_iou: float, least_stability: float, *, guesses: bool = False
    ) -> MaskBatch:
        """Masks that are not empty and reach a predicted IoU and a stability."""
        answer = self._segmenter.decode(embedding, batch, margin=self._margin, guesses=guesses)
        good = (answer.logits > 0).any(axis=(1, 2)) & (answer.iou >= least_iou)
        return answer.take(good & (stability(answer.logits) >= least_stability) if least_stability > 0 else good)

    @property
    def _takes_points(self) -> bool:
        return "point" in self._segmenter.prompt_kinds

    def _prompts(self, image: int, sight: Sight, random: np.random.Generator) -> Iterator[PromptBatch]:
        """Subsets of points for a segmenter that takes points, else boxes."""
        if self._takes_points:
            yield from self._point_prompts(image, sight, random)
        else:
            boxes = sight.boxes(self._settings.levels, self._size)
            for start in range(0, len(boxes), AT_ONCE):
                some = boxes[start : start + AT_ONCE]
                yield PromptBatch(np.full(len(some), image), boxes=some)

    def _point_prompts(self, image: int, sight: Sight, random: np.random.Generator) -> Iterator[PromptBatch]:
        settings = self._settings
        points = sight.points(self._size)
        box = prompts.box_around(points) if settings.box else None
        if settings.sampling == "centres":
            points = prompts.cluster(points, settings.clusters, random)
        for group in prompts.subsets(points, settings.subset_sizes, settings.draws, random):
            yield from _batches(group, image, box)


def uncovered(masks: np.ndarray, field: np.ndarray, least: float) -> np.ndarray:
    """(N, S, S) float32 logits of what is alike and was not drawn: pieces half as alike as the likest place, or more.

    Args:
        masks: (M, S, S) bool of what was drawn.
        field: (S, S) likeness, above 0 where a px is like the examples.
        least: px of a piece.
    """
    pieces, count = ndimage.label((field > 0) & ~masks.any(axis=0))
    numbers = np.arange(1, count + 1)
    areas, heights = np.bincount(pieces.ravel(), minlength=count + 1)[1:], ndimage.maximum(field, pieces, numbers)
    wanted = numbers[(areas >= least) & (np.asarray(heights) >= field.max() / 2)]
    sure = (STRONGEST / field.max() * field).astype(np.float32)
    return np.where(pieces == wanted[:, None, None], sure, BACKGROUND_LOGIT).astype(np.float32)


def _regular(side: int, size: int) -> np.ndarray:
    """(side * side, 1, 2) float32 points at equal distances on a patch of ``size`` px."""
    ticks = (np.arange(side, dtype=np.float32) + 0.5) * size / side
    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 1, 2)


def _batches(points: np.ndarray, image: int, box: np.ndarray | None) -> Iterator[PromptBatch]:
    """Prompts of (n, k, 2) points, all inside the object, few enough at a time."""
    for start in range(0, len(points), AT_ONCE):
        some = points[start : start + AT_ONCE].astype(np.float32)
        boxes = None if box is None else np.tile(box.astype(np.float32), (len(some), 1))
        yield PromptBatch(np.full(len(some), image), boxes, some, np.ones(some.shape[:2], np.int64))


def _enlarged(field: np.ndarray, size: int) -> np.ndarray:
    """A map (g, g) at the px of an image."""
    return np.asarray(resize(field, (size, size), order=1, mode="edge"))
