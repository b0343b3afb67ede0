"""The domain decoder as a model of its own: the objects of all its classes, as it sees them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from wsi_pipeline.models.domain_decoder.model import DomainModel
from wsi_pipeline.models.domain_decoder.object_map import ObjectMap, detections_of
from wsi_pipeline.models.domain_decoder.splitting import SplitSettings
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.roles import Instances, MaskBatch, PairImages
from wsi_pipeline.models.segmenter import BACKGROUND_LOGIT
from wsi_pipeline.models.windows import CELLS, Windows

_SURE = 1.0
"""Least logit of a px that splitting has given to an object."""


class DomainSegmenter:
    """Finds the objects of pairs; see ``roles.InstanceSegmenter``.

    Args:
        plan: see ``domain_plan``.
        device, dtype: as of ``DomainModel``.
        split: how objects are told apart.
        margin: windows hold the object's box grown by this share of its size.
    """

    def __init__(
        self,
        plan: WeightPlan,
        *,
        device: str = "cpu",
        dtype: str = "fp32",
        split: SplitSettings | None = None,
        margin: float | None = None,
    ) -> None:
        self._model = DomainModel(plan, device=device, dtype=dtype)
        self._split, self._margin = split or SplitSettings(), margin or 0.0
        self.input_size, self.uses_low_patch = self._model.size, self._model.uses_low_patch
        self.class_names = self._model.facts.classes
        self.encoder = self._model.encoder

    def find(self, pairs: PairImages, *, mpp: float, min_score: float, max_objects: int) -> list[list[Instances]]:
        """Find the objects of B pairs; a score is the mean probability of an object's px; ``mpp`` is not looked at.

        Raises:
            ValueError: patches of another size, or the low ones are missing.
        """
        maps = self._model.maps(pairs)
        of_class = [self._model.split(maps, number, self._split) for number in range(len(self.class_names))]
        found: list[list[Instances]] = []
        for one_pair in zip(*of_class, strict=True):
            groups = [
                group
                for number, seen in enumerate(one_pair, start=1)
                for group in self._grouped(seen, number, min_score)
            ]
            found.append(_surest(groups, max_objects))
        return found

    def _grouped(self, seen: ObjectMap, class_number: int, min_score: float) -> list[Instances]:
        """Objects of a class with windows of one side after the other."""
        here = detections_of(seen, self._model.px)
        good = np.flatnonzero(here.scores >= min_score)
        groups = []
        for rows, windows in Windows.around(here.boxes[good], self._margin, self.input_size).by_side():
            mine = good[rows]
            masks = MaskBatch(
                np.stack([self._window(seen, *one) for one in zip(mine + 1, windows.start, windows.side, strict=True)]),
                windows.corners(self.input_size),
                here.scores[mine],
            )
            classes = np.full(len(mine), class_number, np.int64)
            groups.append(Instances(masks, here.boxes[mine], here.scores[mine], classes))
        return groups

    def _window(self, seen: ObjectMap, label: int, start: np.ndarray, side: int) -> np.ndarray:
        """(h, w) float32 logits of an object in a window of ``side`` cells, at patch px."""
        cell = seen.labels.shape[0] // CELLS
        x, y = start * cell
        place = slice(y, y + side * cell), slice(x, x + side * cell)
        labels, logits = seen.labels[place], seen.logits[place]
        outside = np.where(labels == 0, np.minimum(logits, -_SURE), BACKGROUND_LOGIT)
        drawn = np.where(labels == label, np.maximum(logits, _SURE), outside).astype(np.float32)
        factor = round(self._model.px)
        if factor == 1:
            return drawn
        large = F.interpolate(torch.from_numpy(drawn)[None, None], scale_factor=factor, mode="bilinear")
        return np.asarray(large[0, 0].numpy())


def _surest(groups: list[Instances], count: int) -> list[Instances]:
    """At most ``count`` objects, the ones with the best scores."""
    scores = np.concatenate([group.scores for group in groups] or [np.zeros(0, np.float32)])
    if len(scores) <= count:
        return groups
    kept = np.zeros(len(scores), bool)
    kept[np.argsort(-scores, kind="stable")[:count]] = True
    parts = np.split(kept, np.cumsum([len(group) for group in groups])[:-1])
    return [group.take(np.flatnonzero(part)) for group, part in zip(groups, parts, strict=True) if part.any()]
