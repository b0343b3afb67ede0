"""Dense mode with a model that finds the objects of a tile by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from wsi_pipeline.models.roles import Instances, InstanceSegmenter, PairImages
from wsi_pipeline.segment import components
from wsi_pipeline.segment.candidates import Candidate, FoundOnTiles, OnTiles, best_on_tile, cut_out
from wsi_pipeline.segment.decoding import select
from wsi_pipeline.segment.memory import in_halves
from wsi_pipeline.segment.reduced import reduce_answers
from wsi_pipeline.segment.suppression import CONTAINED
from wsi_pipeline.segment.tile_extent import TileExtent
from wsi_pipeline.workflow import SegmentModelPrompts, SegmentSettings

TILES_AT_ONCE = 4
"""Tiles whose objects are held with all the px of their windows."""

Again = Callable[[OnTiles, Sequence[int]], OnTiles]
"""Draws the objects of tiles anew; also gets the numbers of the tiles."""


class InstanceFinder:
    """Finds the objects of tiles, each of which does not depend on the others.

    Args:
        model: finds and draws them; its input size is the tile's.
        settings: thresholds.
        prompts: how many there may be.
        again: draws them anew if wanted.
        last: what is done to the objects of some tiles when all else is.
        contained: as of ``suppress``.
    """

    def __init__(
        self,
        model: InstanceSegmenter,
        settings: SegmentSettings,
        prompts: SegmentModelPrompts,
        again: Again | None,
        last: Callable[[OnTiles], OnTiles],
        contained: float = CONTAINED,
    ) -> None:
        self._model, self._settings, self._prompts, self._again, self._last = model, settings, prompts, again, last
        self._contained = contained
        self._scores: list[float] = []
        self._classes: list[int] = []

    def find(self, images: PairImages, rows: Sequence[int], extents: Sequence[TileExtent]) -> FoundOnTiles:
        """The objects of the tiles ``rows`` of a batch; the arguments are those of the whole batch."""
        objects: OnTiles = []
        for start in range(0, len(rows), TILES_AT_ONCE):
            some = rows[start : start + TILES_AT_ONCE]
            objects += self._on_some(images, some, extents)
        return FoundOnTiles(objects, np.array(self._scores, np.float32), np.array(self._classes, np.int64))

    def _on_some(self, images: PairImages, rows: Sequence[int], extents: Sequence[TileExtent]) -> OnTiles:
        def look(asked: Sequence[int]) -> list[list[Instances]]:
            return self._model.find(
                select(images, np.array(asked)),
                mpp=extents[asked[0]].mpp,
                min_score=self._settings.min_iou,
                max_objects=self._prompts.max_objects,
            )

        objects: OnTiles = []
        for row, groups in zip(rows, in_halves(look, rows), strict=True):
            found = [one for group in groups for one in self._accepted(group, extents[row])]
            objects.append((row, self._best(found)))
        if self._again is not None:
            objects = [(row, self._best(found)) for row, found in self._again(objects, rows)]
        return self._last(objects)

    def _accepted(self, found: Instances, extent: TileExtent) -> Iterator[Candidate]:
        """The objects of a group that lie where the tile is asked about and pass the thresholds."""
        limits = np.tile(extent.limits, (len(found), 1))
        seeds = components.box_seeds(found.masks.logits, found.masks.origin, found.boxes)
        reduced = reduce_answers(found.masks, seeds, limits, parts="best")
        good = extent.is_asked((found.boxes[:, :2] + found.boxes[:, 2:]) / 2) & (reduced.area > 0)
        good &= (reduced.iou >= self._settings.min_iou) & (reduced.stability >= self._settings.min_stability)
        for index in np.flatnonzero(good).tolist():
            self._scores.append(float(found.scores[index]))
            self._classes.append(int(found.classes[index]))
            yield cut_out(reduced, index, row=len(self._scores) - 1)

    def _best(self, candidates: list[Candidate]) -> list[Candidate]:
        return best_on_tile(candidates, np.array(self._scores), self._settings.nms_iou, self._contained)
