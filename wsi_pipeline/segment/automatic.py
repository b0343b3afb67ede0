"""Automatic masks: every guess at every point of a grid; good and stable ones stay, and of duplicates the best.

What segment-anything's mask generator does (Kirillov et al. 2023, appendix B; ``GridPrompts`` has its settings), for
tiles of a slide: only tissue is asked about, crops are read from the slide as fine as it is, and each call's answers
are sorted out before the next call, so that whole masks of one call at most are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch, Segmenter
from wsi_pipeline.prompts.grid import grid_points, has_stain
from wsi_pipeline.segment import decoding
from wsi_pipeline.segment.candidates import Candidate, by_position, cut_out, distinct
from wsi_pipeline.segment.crops import Crop, cut_by_crop, lay_out, onto_tile
from wsi_pipeline.segment.packed import PackedCandidate
from wsi_pipeline.segment.reduced import reduce_answers
from wsi_pipeline.segment.refine import RefineStage, encode_again, refine_candidates
from wsi_pipeline.segment.small_regions import without_small_regions
from wsi_pipeline.segment.tile_extent import TileExtent
from wsi_pipeline.tiling.read import GridReader, read_pairs
from wsi_pipeline.workflow import GridPrompts

ReadCrop = Callable[[Crop], PairImages]
"""Gives the pair whose high patch, of the model's input size, shows a crop."""


@dataclass(frozen=True, slots=True)
class MaskFinder:
    """Finds all masks of a tile.

    Attributes:
        segmenter: draws them; its input size is the tile's.
        settings: of the grid.
        nms_iou: of two masks overlapping more than this the better one stays. Only the overlap counts, so a part
            stays beside its whole; 1 keeps everything.
        levels: granularities that are wanted of the model's guesses, see ``granularity``; none: all guesses.
    """

    segmenter: Segmenter
    settings: GridPrompts
    nms_iou: float
    levels: tuple[int, ...] = ()

    def find(self, tile: PairImages, extent: TileExtent, read: ReadCrop) -> list[Candidate]:
        """All masks of one tile.

        Args:
            tile: one pair.
            extent: where it lies.
            read: reads the crops that hold a point.

        Returns:
            Whole masks, not their parts at the points, by position; ``row`` is the place of their level in ``levels``,
            0 for all where there are none.

        Raises:
            PromptError: the model takes no points.
        """
        settings, size = self.settings, self.segmenter.input_size
        crops = lay_out(size, size, settings.crop_n_layers, settings.crop_overlap_ratio)
        found: list[PackedCandidate] = []
        areas: list[int] = []
        for crop in crops:
            points = self._points(tile.high[0], crop, extent)
            if len(points):
                here = list(self._answers(tile if crop.layer == 0 else read(crop), points, crop, extent))
                best = _best_boxes(here, [one.facts.iou for one in here], settings.box_nms_thresh)
                found += best
                areas += [crop.area] * len(best)
        if len(crops) > 1:  # a smaller crop sees closer
            found = _best_boxes(found, [1 / area for area in areas], settings.crop_nms_thresh)
        return by_position(self._tidied(self.distinct([one.unpacked() for one in found]), extent))

    def distinct(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that no better one covers, in their order."""
        return distinct(candidates, self.scores, max_iou=self.nms_iou, contained=1)

    @property
    def scores(self) -> np.ndarray:
        """Of what the ``row`` of a candidate counts: every point is as good as another."""
        return np.ones(max(1, len(self.levels)))

    def _points(self, image: np.ndarray, crop: Crop, extent: TileExtent) -> np.ndarray:
        """(N, 2) float32 points of a crop on tissue, px of its patch."""
        px = crop.side / self.segmenter.input_size
        shown = ((crop.x1 - crop.x0) / px, (crop.y1 - crop.y0) / px)
        points, spacing = grid_points(self.settings, shown, extent.mpp, layer=crop.layer)
        on_tile = points * px + (crop.x0, crop.y0)
        asked = np.flatnonzero(((on_tile >= extent.asked[:2]) & (on_tile < extent.asked[2:])).all(axis=1))
        on_tissue = has_stain(image, on_tile[asked], round(spacing * px / 2))
        return points[asked[on_tissue]].astype(np.float32)

    def _answers(
        self, pair: PairImages, points: np.ndarray, crop: Crop, extent: TileExtent
    ) -> Iterator[PackedCandidate]:
        """The answers to a crop's points that pass every check, point by point."""
        size = self.segmenter.input_size
        fitting = decoding.ANSWER_PX // (self.segmenter.n_guesses * size**2)
        step = max(1, min(self.settings.points_per_batch, fitting))
        embedding = self.segmenter.encode(pair)
        for start in range(0, len(points), step):
            some = points[start : start + step, None]
            prompts = PromptBatch(np.zeros(len(some), np.int64), points=some, point_labels=np.ones(some.shape[:2], int))
            answers = self.segmenter.decode(embedding, prompts, guesses=True)
            wanted, level = self._wanted(answers)
            yield from self._good_ones(answers.take(wanted), level[wanted], crop, extent)

    def _wanted(self, answers: MaskBatch) -> tuple[np.ndarray, np.ndarray]:
        """(N,) bool, which guesses are wanted and sure enough, and (N,) the place of their level among ``levels``."""
        # 0 lets all pass, as predictions may be negative
        threshold = self.settings.pred_iou_thresh
        sure = (answers.iou > threshold) | (threshold == 0)
        if not self.levels:
            return sure, np.zeros(len(answers), np.int64)
        level = 1 + np.arange(len(answers)) % self.segmenter.n_guesses
        return sure & np.isin(level, self.levels), np.searchsorted(self.levels, level)

    def _good_ones(
        self, answers: MaskBatch, level: np.ndarray, crop: Crop, extent: TileExtent
    ) -> Iterator[PackedCandidate]:
        if not len(answers):
            return
        size = self.segmenter.input_size
        on_tile = onto_tile(answers, crop, size)
        limits = np.tile(extent.limits, (len(on_tile), 1))
        found = reduce_answers(on_tile, None, limits, stability_offset=self.settings.stability_score_offset)
        good = (found.area > 0) & (found.stability >= self.settings.stability_score_thresh)
        good &= ~cut_by_crop(found.boxes, crop, size)
        for index in np.flatnonzero(good).tolist():
            yield PackedCandidate.of(cut_out(found, index, row=int(level[index])))

    def _tidied(self, candidates: Sequence[Candidate], extent: TileExtent) -> list[Candidate]:
        """The candidates without small regions; of those that look alike now, one that had none."""
        area = self.settings.min_mask_region_area / extent.mpp**2
        if not area:
            return list(candidates)
        tidied = [without_small_regions(one, area, extent.limits) for one in candidates]
        alike = max(self.settings.box_nms_thresh, self.settings.crop_nms_thresh)
        order = _order_by_boxes([one for one, _ in tidied], [float(not changed) for _, changed in tidied], alike)
        return [tidied[i][0] for i in order]


def find_on_tiles(
    finder: MaskFinder,
    slide: GridReader,
    images: PairImages,
    extents: Sequence[TileExtent],
    refine: RefineStage | None = None,
) -> Iterator[tuple[int, list[Candidate]]]:
    """The masks of each tile, which do not depend on the other tiles.

    Args:
        finder: of the workflow.
        slide: where to read crops.
        images: the tiles' pixels.
        extents: where they lie.
        refine: draws the masks again.

    Yields:
        The number of every tile and its masks, as of ``MaskFinder.find``.
    """
    for number, extent in enumerate(extents):
        tile = decoding.select(images, np.array([number]))
        read = partial(_read_crop, slide, finder.segmenter, extent, images.context_factor)
        found = finder.find(tile, extent, read)
        if refine is not None and found:
            size = finder.segmenter.input_size
            rows, limits = np.zeros(len(found), np.int64), np.tile(extent.limits, (len(found), 1))
            embedding = encode_again(refine.refiner, slide, [extent.pair(size, images.context_factor)], tile)
            redrawn = refine_candidates(refine, embedding, found, rows, limits, size)
            found = by_position(finder.distinct(redrawn))
        yield number, found


def _read_crop(slide: GridReader, segmenter: Segmenter, extent: TileExtent, factor: float, crop: Crop) -> PairImages:
    pair = crop.pair(extent.to_level0, segmenter.input_size, factor)
    return read_pairs(slide, [pair], low=segmenter.uses_low_patch)


def _best_boxes(found: Sequence[PackedCandidate], scores: Sequence[float], max_iou: float) -> list[PackedCandidate]:
    return [found[i] for i in _order_by_boxes([one.facts for one in found], scores, max_iou)]


def _order_by_boxes(candidates: Sequence[Candidate], scores: Sequence[float], max_iou: float) -> list[int]:
    """Numbers of the candidates whose boxes no box of a better score overlaps more, best first; equals in order.

    Boxes end at the middle of their last px here, as segment-anything's do.
    """
    if not candidates:
        return []
    import torch
    from torchvision.ops import nms

    corners = np.stack([one.box for one in candidates]) - np.array([0, 0, 1, 1])
    order = nms(torch.tensor(corners, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32), max_iou)
    kept: list[int] = order.tolist()
    return kept
