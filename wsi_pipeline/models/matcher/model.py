"""Matcher at work: what looks like annotated examples, as prompts for another model or drawn by its own segmenter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from wsi_pipeline.models.encoding import PatchEncoder, pixel_digest
from wsi_pipeline.models.matcher.examples import Outline, classes_of
from wsi_pipeline.models.matcher.features import FeatureEncoder, mean_of, unit
from wsi_pipeline.models.matcher.proposals import Drawn, Proposer
from wsi_pipeline.models.matcher.reference import load_references, reference_mpp
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.matcher.sight import ClassExamples, Sight
from wsi_pipeline.models.roles import Detections, Instances, MaskBatch, PairImages, Segmenter
from wsi_pipeline.models.surest import surest
from wsi_pipeline.segment.components import tight_boxes

_OF_EACH = ("boxes", "scores", "points")


class MatcherModel:
    """Finds what looks like annotated examples; see ``roles.Prompter``, ``InstanceSegmenter`` and ``SlideAware``.

    An image without the class gives nothing: its ``presence`` (see there) is less than ``min_presence``. What is drawn
    at random is drawn with a seed of the image's own pixels, so an image's answer does not depend on its batch, its
    worker, or when it is asked about.

    Args:
        settings: of the matcher.
        outlines: the examples.
        features: whose features are compared.
        segmenter: draws masks; None where only prompts are wanted.
        margin: see ``Proposer``.

    Attributes:
        encoder: counts the patches it encoded; None where no network is shared.
    """

    uses_low_patch = False

    def __init__(
        self,
        settings: MatcherSettings,
        outlines: Sequence[Outline],
        features: FeatureEncoder,
        segmenter: Segmenter | None,
        *,
        margin: float | None = 0.5,
    ) -> None:
        self.settings, self.class_names = settings, classes_of(outlines)
        self.learns_slide = settings.centre == "slide"
        self.encoder: PatchEncoder | None = features.encoder or getattr(segmenter, "encoder", None)
        self.input_size: Any = None if segmenter is None else segmenter.input_size
        self._outlines, self._features, self._segmenter = outlines, features, segmenter
        self._proposer = None if segmenter is None else Proposer(segmenter, settings, margin)
        self._known: dict[tuple[float, int], list[ClassExamples]] = {}
        self._slide_mean: np.ndarray | None = None

    def look(self, pairs: PairImages) -> np.ndarray:
        """(B, C) float32 mean feature of each patch."""
        return mean_of(self._features.levels(pairs.high))

    def knowing(self, seen: np.ndarray) -> Self:
        """The same model, which subtracts the mean of what ``look`` gave; without any, that of each patch."""
        other = copy.copy(self)
        other._slide_mean = seen.mean(axis=0) if len(seen) else None
        return other

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """Places like the examples on each patch: boxes, a point of each where it is most alike, scores and classes."""
        size = pairs.high.shape[1]
        return [self._detections(sights, size) for sights in self._see(pairs, mpp)]

    def find(self, pairs: PairImages, *, mpp: float, min_score: float, max_objects: int) -> list[list[Instances]]:
        """Find and draw what is like the examples; a score is that by which masks are chosen."""
        if self._segmenter is None:
            raise ValueError("the matcher has no segmenter")
        embedding, found = None, []
        for number, sights in enumerate(self._see(pairs, mpp)):
            if sights and embedding is None:
                embedding = self._segmenter.encode(pairs)
            drawn = self._drawn(embedding, number, sights, pairs.high[number])
            found.append(surest(drawn, max_objects, least=min_score))
        return found

    def _see(self, pairs: PairImages, mpp: float) -> list[dict[int, Sight]]:
        """What is seen on each patch of the classes that are present there, by their numbers."""
        examples = self._examples(mpp, pairs.high.shape[1])
        levels = self._features.levels(pairs.high)
        targets = unit(levels, self._centre(levels))
        return [self._present(examples, target) for target in targets]

    def _present(self, examples: list[ClassExamples], target: np.ndarray) -> dict[int, Sight]:
        reverse = self.settings.reverse_check
        seen = {number: Sight.of(one, target, reverse=reverse) for number, one in enumerate(examples, start=1)}
        return {number: sight for number, sight in seen.items() if sight.presence >= self.settings.min_presence}

    def _examples(self, mpp: float, size: int) -> list[ClassExamples]:
        mpp = reference_mpp(mpp)
        if (mpp, size) not in self._known:
            references = load_references(self._outlines, self._features, self.settings, size=size, mpp=mpp)
            numbers = range(1, len(self.class_names) + 1)
            self._known[mpp, size] = [ClassExamples.of(references, number) for number in numbers]
        return self._known[mpp, size]

    def _centre(self, levels: Sequence[np.ndarray]) -> np.ndarray | None:
        if self.settings.centre == "none":
            return None
        if self.settings.centre == "slide" and self._slide_mean is not None:
            return self._slide_mean
        return mean_of(levels)

    def _detections(self, sights: dict[int, Sight], size: int) -> Detections:
        nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 2), np.float32))
        found = [nothing, *(sight.detections(self.settings.levels, size) for sight in sights.values())]
        numbers = np.repeat([0, *sights], [len(one.scores) for one in found])
        boxes, scores, points = (np.concatenate([getattr(one, name) for one in found]) for name in _OF_EACH)
        return Detections(boxes, scores, points, numbers.astype(np.int64))

    def _drawn(self, embedding: object, number: int, sights: dict[int, Sight], image: np.ndarray) -> list[Instances]:
        assert self._proposer is not None
        found = []
        seed = bytes.fromhex(pixel_digest(image))
        for class_number, sight in sights.items():
            drawn = self._proposer.draw(embedding, number, sight, np.random.default_rng([*seed, class_number]))
            if len(drawn):
                found.append(_as_instances(drawn, class_number))
        return found


def _as_instances(drawn: Drawn, class_number: int) -> Instances:
    count = len(drawn)
    return Instances(
        MaskBatch(drawn.logits, np.zeros((count, 2), np.int64), drawn.iou),
        tight_boxes(drawn.masks).astype(np.float32),
        np.clip(drawn.scores, 0, 1).astype(np.float32),
        np.full(count, class_number, np.int64),
    )
