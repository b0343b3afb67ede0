"""SAM-CLIP as a finder of what fits words: places for any segmenter, or outlines that it draws itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from wsi_pipeline.models.roles import Detections, Instances, PairImages
from wsi_pipeline.models.sam_clip.model import SamClip
from wsi_pipeline.models.sam_clip.prompts import Pieces, detections_of
from wsi_pipeline.models.segmenter import PairEmbedding
from wsi_pipeline.models.surest import surest
from wsi_pipeline.segment.components import tight_boxes
from wsi_pipeline.workflow import TextPlaces


class TextFinder:
    """A ``Prompter`` and an ``InstanceSegmenter``; see ``roles``. The low patch is not looked at.

    Args:
        model: encodes, understands and draws.
        settings: the classes, and what counts as a place. Class n of the results is the n-th of ``settings.targets``.
        margin: outlines lie in windows around places grown by this share of their size; None for the whole patch.

    Attributes:
        encoder: counts the patches it encoded.

    Raises:
        WorkflowError: the text encoder does not know a word.
    """

    uses_low_patch = False

    def __init__(self, model: SamClip, settings: TextPlaces, *, margin: float | None = 0.5) -> None:
        model.classes(settings)  # an unknown word shows now
        self._model, self.settings, self._margin = model, settings, margin
        self._wanted = [number for number, name in enumerate(settings.names) if name != settings.background]
        self._px = model.input_size / model.mask_size
        self.input_size: Any = model.input_size
        self.class_names = settings.targets
        self.encoder = model.encoder

    def detect(self, pairs: PairImages, *, mpp: float) -> list[Detections]:
        """Boxes, surest px and classes of places on each high patch; scores are mean probabilities."""
        return [detections_of(pieces, self._px) for pieces in self._places(self._model.encode(pairs), mpp)]

    def find(self, pairs: PairImages, *, mpp: float, min_score: float, max_objects: int) -> list[list[Instances]]:
        """Draw the places; scores are mean probabilities."""
        embedding = self._model.encode(pairs)
        places = self._places(embedding, mpp)
        drawn = self._model.outline(embedding, places, margin=self._margin)
        ends = np.cumsum([0, *map(len, places)])
        found = []
        for pieces, first, end in zip(places, ends[:-1], ends[1:], strict=True):
            masks = drawn.take(np.arange(first, end))
            boxes = tight_boxes(masks.logits > 0) + np.tile(masks.origin, 2)
            of_patch = Instances(masks, boxes.astype(np.float32), pieces.scores, pieces.classes + 1)
            there = np.flatnonzero((masks.logits > 0).any(axis=(1, 2)))
            found.append(surest([of_patch.take(there)], max_objects, least=min_score))
        return found

    def _places(self, embedding: PairEmbedding, mpp: float) -> list[Pieces]:
        text_map, settings = self._model.text_map(embedding, self.settings), self.settings
        area = settings.min_area / (mpp * self._px) ** 2
        return self._model.pieces(text_map, self._wanted, threshold=settings.threshold, min_area=area)
