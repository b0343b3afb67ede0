"""Objects of a domain decoder's maps as a model gives them: masks in windows, boxes, scores and classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from wsi_pipeline.models.collected import BACKGROUND_LOGIT
from wsi_pipeline.models.domain_decoder.decoder import DomainMaps
from wsi_pipeline.models.domain_decoder.object_map import ObjectMap, detections_of, split_maps
from wsi_pipeline.models.domain_decoder.splitting import SplitSettings
from wsi_pipeline.models.roles import Instances, MaskBatch
from wsi_pipeline.models.surest import surest
from wsi_pipeline.models.windows import CELLS, Windows

_SURE = 1.0
"""Least logit of a px that splitting has given to an object."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How the objects of maps are told apart and drawn.

    Attributes:
        size: side of the patches, px.
        split: how objects are told apart.
        margin: windows hold the object's box grown by this share of its size.
    """

    size: int
    split: SplitSettings
    margin: float

    def instances(self, maps: DomainMaps, *, min_score: float, most: int) -> list[list[Instances]]:
        """The objects of B patches, those whose windows are of one side together.

        Args:
            maps: of C classes; an object of the n-th is of class n.
            min_score: least mean probability of an object's px.
            most: objects of a patch.
        """
        of_class = [split_maps(maps, number, self.split) for number in range(maps.masks.shape[1])]
        found = []
        for one_patch in zip(*of_class, strict=True):
            groups = [
                group
                for number, seen in enumerate(one_patch, start=1)
                for group in self._grouped(seen, number, min_score)
            ]
            found.append(surest(groups, most))
        return found

    def _grouped(self, seen: ObjectMap, class_number: int, min_score: float) -> Iterator[Instances]:
        """Objects of a class with windows of one side after the other."""
        here = detections_of(seen, self.size / seen.labels.shape[0])
        good = np.flatnonzero(here.scores >= min_score)
        for rows, windows in Windows.around(here.boxes[good], self.margin, self.size).by_side():
            mine = good[rows]
            masks = MaskBatch(
                np.stack([self._window(seen, *one) for one in zip(mine + 1, windows.start, windows.side, strict=True)]),
                windows.corners(self.size),
                here.scores[mine],
            )
            classes = np.full(len(mine), class_number, np.int64)
            yield Instances(masks, here.boxes[mine], here.scores[mine], classes)

    def _window(self, seen: ObjectMap, label: int, start: np.ndarray, side: int) -> np.ndarray:
        """(h, w) float32 logits of an object in a window of ``side`` cells, at patch px."""
        cell = seen.labels.shape[0] // CELLS
        x, y = start * cell
        place = slice(y, y + side * cell), slice(x, x + side * cell)
        labels, logits = seen.labels[place], seen.logits[place]
        outside = np.where(labels == 0, np.minimum(logits, -_SURE), BACKGROUND_LOGIT)
        drawn = np.where(labels == label, np.maximum(logits, _SURE), outside).astype(np.float32)
        factor = self.size // seen.labels.shape[0]
        if factor == 1:
            return drawn
        large = F.interpolate(torch.from_numpy(drawn)[None, None], scale_factor=factor, mode="bilinear")
        return np.asarray(large[0, 0].numpy())
