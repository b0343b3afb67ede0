"""Dense mode: every tile of a batch, asked about whatever a prompter finds on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain
from typing import Any, cast

import numpy as np

from wsi_pipeline.errors import PromptError
from wsi_pipeline.geometry import PixelGrid
from wsi_pipeline.granularity import Levels, level_classes
from wsi_pipeline.models.roles import InstanceSegmenter, PairImages, PromptBatch, Prompter, Segmenter
from wsi_pipeline.segment import components, decoding
from wsi_pipeline.segment.automatic import MaskFinder, find_on_tiles
from wsi_pipeline.segment.candidates import (
    Candidate,
    FoundOnTiles,
    OnTiles,
    accept,
    best_on_tile,
    paint_logits,
)
from wsi_pipeline.segment.decoding import decode_in_calls, select, take, window_bounds, window_sides
from wsi_pipeline.segment.found import FoundObject, collect
from wsi_pipeline.segment.instances import InstanceFinder
from wsi_pipeline.segment.memory import in_halves
from wsi_pipeline.segment.objects import (
    SEAM_BOTTOM,
    SEAM_LEFT,
    SEAM_RIGHT,
    SEAM_TOP,
    ObjectBatch,
    quantise_logits,
)
from wsi_pipeline.segment.recognise import RecogniseStage, recognise_candidates
from wsi_pipeline.segment.refine import RefineStage, encode_again, refine_candidates
from wsi_pipeline.segment.suppression import CONTAINED
from wsi_pipeline.segment.tile_extent import TileExtent
from wsi_pipeline.tiling.plan import PatchPair, Tile, TilePlan
from wsi_pipeline.tiling.read import GridReader, read_pairs
from wsi_pipeline.workflow import GridPrompts, SegmentModelPrompts, SegmentSettings, Workflow

BLANK_RANGE = 8
"""A patch whose channels vary by no more than this many grey values shows nothing: JPEG noise of plain glass."""

SLACK = 0.25
"""Prompts this share of the overlap beyond the core are asked too: two detectors' boxes of one object on a seam differ
by less, so the object is found on at least one side, and asking farther out costs decodes that the neighbour makes."""


@dataclass(frozen=True, slots=True)
class Questions:
    """N candidate objects on the tiles of a batch.

    Attributes:
        tile: (N,) int64 row of the batch's tiles, ascending.
        boxes: (N, 4) float32 tile px; NaN where only a point is known.
        points: (N, 2) float32 tile px.
        scores: (N,) float32 the prompter's.
        classes: (N,) int64 the prompter's or those of the levels, 0 for none.
        levels: (N,) int64 the granularity each asks for, 0 where the model chooses.
    """

    tile: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    levels: np.ndarray

    def __len__(self) -> int:
        return len(self.tile)

    def at(self, levels: Levels) -> Questions:
        """Each of them once for every level of granularity; class n is that of level n where levels have classes."""
        if not levels:
            return self
        rows = np.repeat(np.arange(len(self)), len(levels))
        every = Questions(*(getattr(self, f.name)[rows] for f in fields(self)))
        asked = np.tile(np.array([level for level, _ in levels], np.int64), len(self))
        named = np.tile(1 + np.arange(len(levels)), len(self)) if level_classes(levels) else every.classes
        return replace(every, classes=named, levels=asked)


def read_batch(slide: GridReader, plan: TilePlan, number: int, *, low: bool, context_factor: float) -> PairImages:
    """Read the patch pairs of a batch's kept tiles, in the order of ``plan.batch(number)``."""
    pairs = [PatchPair.of_tile(tile, plan.grid, context_factor) for tile in plan.batch(number)]
    return read_pairs(slide, pairs, low=low)


def segment_batch(
    slide: GridReader,
    plan: TilePlan,
    number: int,
    segmenter: Segmenter | InstanceSegmenter,
    prompter: Prompter | None,
    workflow: Workflow,
    class_id: int,
    *,
    refine: RefineStage | None = None,
    recognise: RecogniseStage | None = None,
    images: PairImages | None = None,
) -> ObjectBatch:
    """Segment every object of one batch of tiles.

    Args:
        slide: where to read.
        plan: the tiles; their side is the segmenter's input size.
        number: which batch.
        segmenter: draws the masks.
        prompter: finds what to ask about; a grid, and a segmenter that finds objects by itself, leave it alone.
        workflow: its ``segment`` and ``tiling`` sections count here.
        class_id: class of every object, 0 for none; where the segmenter or the prompter names what it finds, and the
            workflow does not, their classes count instead.
        refine: draws them again.
        recognise: says what they are; see ``RecogniseStage.named`` for the class that follows.
        images: the batch's pixels where they were read ahead (``read_batch``).

    Returns:
        The objects on the working grid, tile by tile and then by position, and the logits of every kept tile.

    Raises:
        PromptError: the prompter gives points only, and the segmenter takes boxes only.
    """
    if workflow.segment is None:
        raise ValueError(f"workflow {workflow.name} has no segment section")
    tiles = plan.batch(number)
    if images is None:
        factor = workflow.tiling.context_factor
        images = read_batch(slide, plan, number, low=segmenter.uses_low_patch, context_factor=factor)
    background = quantise_logits(np.array(components.BACKGROUND))
    canvas = np.full((len(tiles), plan.size, plan.size), background, np.int8)
    objects: list[FoundObject] = []
    extents = [TileExtent.of_tile(tile, plan, slack=SLACK * plan.overlap) for tile in tiles]
    found = _find(slide, images, extents, segmenter, prompter, workflow, refine, recognise)
    by_level = level_classes(workflow.segment.granularity)
    own = len(found.classes) > 0 and bool(by_level or (workflow.prompts and not workflow.prompts.class_name))
    for row, kept in found.on_tiles:
        for candidate in kept:
            paint_logits(canvas[row], candidate)
            of_class = int(found.classes[candidate.row]) if own else class_id
            objects.append(_on_grid(candidate, tiles[row], plan.grid, of_class, found.scores))
    corners = np.array([(tile.x, tile.y) for tile in tiles])
    if recognise is None:
        return collect(objects, canvas, corners)
    return recognise.named(collect(objects, canvas, corners, n_classes=recognise.n_classes))


def _find(
    slide: GridReader,
    images: PairImages,
    extents: Sequence[TileExtent],
    segmenter: Segmenter | InstanceSegmenter,
    prompter: Prompter | None,
    workflow: Workflow,
    refine: RefineStage | None,
    recognise: RecogniseStage | None,
) -> FoundOnTiles:
    """The objects of all tiles, by the way that the prompts section names."""
    settings, nothing = workflow.segment, np.zeros(0, np.int64)
    assert settings is not None
    contained = 1.0 if workflow.nested else CONTAINED
    again = None if refine is None else partial(_refined, refine, slide, images, extents)
    last = _as_they_are if recognise is None else partial(_recognised, recognise, slide, images, extents)
    if isinstance(workflow.prompts, SegmentModelPrompts):
        finder = InstanceFinder(cast(InstanceSegmenter, segmenter), settings, workflow.prompts, again, last, contained)
        return finder.find(images, np.flatnonzero(~is_blank(images.high)).tolist(), extents)
    segmenter = cast(Segmenter, segmenter)
    if isinstance(workflow.prompts, GridPrompts):
        levels = settings.granularity
        everything = MaskFinder(segmenter, workflow.prompts, settings.nms_iou, tuple(level for level, _ in levels))
        one_by_one = find_on_tiles(everything, slide, images, extents, refine)
        classes = 1 + np.arange(len(levels)) if level_classes(levels) else nothing
        return FoundOnTiles(chain.from_iterable(last([tile]) for tile in one_by_one), everything.scores, classes)
    assert prompter is not None
    questions = _find_questions(prompter, images, extents).at(settings.granularity)
    answered = []
    if len(questions):
        answered = _answer_all(segmenter, images, questions, extents, settings, contained, again, last)
    return FoundOnTiles(answered, questions.scores, questions.classes)


def is_blank(images: np.ndarray) -> np.ndarray:
    """Which of the (B, H, W, 3) uint8 images show nothing but one colour; (B,) bool."""
    batch, height, width, channels = images.shape
    lines = images.reshape(batch, height, width * channels)  # whole lines reduce many times faster than single px
    top = lines.max(axis=1).reshape(batch, width, channels).max(axis=1)
    bottom = lines.min(axis=1).reshape(batch, width, channels).min(axis=1)
    return (top - bottom <= BLANK_RANGE).all(axis=1)


def _find_questions(prompter: Prompter, images: PairImages, extents: Sequence[TileExtent]) -> Questions:
    worth = np.flatnonzero(~is_blank(images.high))
    nobody = np.zeros(0, np.int64)
    found = [Questions(nobody, np.zeros((0, 4), np.float32), np.zeros((0, 2), np.float32), np.zeros(0), nobody, nobody)]
    detections = prompter.detect(select(images, worth), mpp=extents[0].mpp) if len(worth) else []
    for row, here in zip(worth, detections, strict=True):
        mine = extents[int(row)].is_asked(_centres(here.boxes, here.points))
        tile = np.full(int(np.count_nonzero(mine)), row)
        classes = np.zeros(len(tile), np.int64) if here.classes is None else here.classes[mine]
        unasked = np.zeros(len(tile), np.int64)
        found.append(Questions(tile, here.boxes[mine], here.points[mine], here.scores[mine], classes, unasked))
    return Questions(*(np.concatenate([getattr(one, f.name) for one in found]) for f in fields(Questions)))


def _centres(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) centres of boxes (N, 4), and points (N, 2) where there is no box."""
    return np.where(np.isnan(boxes[:, :1]), points, (boxes[:, :2] + boxes[:, 2:]) / 2)


def _answer_all(
    segmenter: Segmenter,
    images: PairImages,
    questions: Questions,
    extents: Sequence[TileExtent],
    settings: SegmentSettings,
    contained: float,
    again: Callable[[OnTiles, Sequence[int]], OnTiles] | None,
    last: Callable[[OnTiles], OnTiles],
) -> OnTiles:
    """The objects of each tile with a question, drawn ``again`` if wanted; no other tile is encoded.

    What is done to them ``last`` is done tile group by tile group, as long as their embeddings are remembered.
    """

    def best(row: int, found: list[Candidate]) -> tuple[int, list[Candidate]]:
        return row, best_on_tile(found, questions.scores, settings.nms_iou, contained)

    limits = np.array([extent.limits for extent in extents])[questions.tile]

    def answer(asked: Sequence[int]) -> OnTiles:
        of_these = np.flatnonzero(np.isin(questions.tile, asked))
        embedding = segmenter.encode(select(images, np.array(asked)))
        batches = _prompt_batches(questions, of_these, np.array(asked), segmenter.prompt_kinds)
        side = np.zeros(len(questions))
        for rows, prompts in batches:
            side[rows] = window_sides(prompts, segmenter.input_size, settings.window_margin)
        objects: OnTiles = []
        for group in _tile_groups(questions.tile[of_these], side[of_these]):
            candidates: dict[int, list[Candidate]] = {int(row): [] for row in group}
            for rows, prompts in batches:
                mine = np.flatnonzero(np.isin(questions.tile[rows], group))
                for candidate in _decode(segmenter, embedding, rows[mine], take(prompts, mine), limits, settings):
                    candidates[int(questions.tile[candidate.row])].append(candidate)
            objects += [best(*found) for found in candidates.items()]
        if again is not None:
            objects = [best(*found) for found in again(objects, asked)]
        return last(objects)

    return in_halves(answer, np.unique(questions.tile).tolist())


def _refined(
    stage: RefineStage,
    slide: GridReader,
    images: PairImages,
    extents: Sequence[TileExtent],
    objects: OnTiles,
    asked: Sequence[int],
) -> OnTiles:
    """The objects of the tiles ``asked`` drawn again."""
    size = images.high.shape[1]
    pairs = [extents[row].pair(size, images.context_factor) for row in asked]
    embedding = encode_again(stage.refiner, slide, pairs, select(images, np.array(asked)))
    every = [(row, one) for row, found in objects for one in found]
    of_row = np.searchsorted(asked, [row for row, _ in every])
    limits = np.array([extents[row].limits for row, _ in every]).reshape(-1, 4)
    drawn = iter(refine_candidates(stage, embedding, [one for _, one in every], of_row, limits, size))
    return [(row, [next(drawn) for _ in found]) for row, found in objects]


def _as_they_are(objects: OnTiles) -> OnTiles:
    return objects


def _recognised(
    stage: RecogniseStage, slide: GridReader, images: PairImages, extents: Sequence[TileExtent], objects: OnTiles
) -> OnTiles:
    """The objects of some tiles with the probabilities of their classes."""
    size = images.high.shape[1]

    def look(some: Sequence[tuple[int, list[Candidate]]]) -> OnTiles:
        rows = [row for row, _ in some]
        pairs = [extents[row].pair(size, images.context_factor) for row in rows]
        embedding = encode_again(stage.recogniser, slide, pairs, select(images, np.array(rows)))
        return [
            (row, recognise_candidates(stage, embedding, image, found, size)) for image, (row, found) in enumerate(some)
        ]

    full = [tile for tile in objects if tile[1]]
    named = dict(in_halves(look, full)) if full else {}
    return [(row, named.get(row, [])) for row, _ in objects]


def _prompt_batches(
    questions: Questions, chosen: np.ndarray, encoded: np.ndarray, kinds: frozenset[str]
) -> list[tuple[np.ndarray, PromptBatch]]:
    """Question rows and their prompts: boxes where there are boxes and the model takes them, else points.

    A level of granularity is asked for at a point, as an object that is larger than the box is no answer to the box.


    Args:
        questions: all of the batch.
        chosen: (n,) rows of ``questions`` to ask.
        encoded: the tiles that were encoded, in order.
        kinds: what the model takes.
    """
    image_index = np.searchsorted(encoded, questions.tile)
    levels = questions.levels if questions.levels.any() else None
    boxed = ~np.isnan(questions.boxes[chosen, 0]) & ("box" in kinds and levels is None)
    batches = []
    if boxed.any():
        rows = chosen[boxed]
        batches.append((rows, PromptBatch(image_index[rows], boxes=questions.boxes[rows])))
    if not boxed.all():
        if "point" not in kinds:
            raise PromptError(
                "the prompts are points, and the model takes no points",
                fix="Choose a prompt source that gives boxes, such as nucleus-detector, or a model that takes points",
            )
        rows = chosen[~boxed]
        labels = np.ones((len(rows), 1), np.int64)
        asked = PromptBatch(image_index[rows], points=questions.points[rows, None], point_labels=labels)
        batches.append((rows, asked if levels is None else replace(asked, levels=levels[rows])))
    return batches


def _tile_groups(tile: np.ndarray, side: np.ndarray) -> list[np.ndarray]:
    """Tiles with questions, in groups of consecutive ones whose answers fit in one call, or single tiles.

    So only a tile's own questions decide how they are cut into calls, whatever else is in the batch.

    Args:
        tile: (N,) tile of each question, ascending.
        side: (N,) window side of each question, px.
    """
    groups: list[list[int]] = []
    count, longest = 0, 0.0
    for row in np.unique(tile).tolist():
        mine = side[tile == row]
        count, longest = count + len(mine), max(longest, float(mine.max()))
        if not groups or count * longest**2 > decoding.ANSWER_PX:
            groups.append([])
            count, longest = len(mine), float(mine.max())
        groups[-1].append(row)
    return [np.array(group) for group in groups]


def _decode(
    segmenter: Segmenter,
    embedding: Any,
    rows: np.ndarray,
    prompts: PromptBatch,
    limits: np.ndarray,
    settings: SegmentSettings,
) -> Iterator[Candidate]:
    size = segmenter.input_size
    margin = settings.window_margin if prompts.boxes is not None else None
    for part, answers in decode_in_calls(segmenter, embedding, prompts, margin=margin):
        asked = take(prompts, part)
        windows = np.tile([0.0, 0.0, size, size], (len(part), 1))
        if asked.boxes is not None:
            seeds = components.box_seeds(answers.logits, answers.origin, asked.boxes)
            if margin is not None:
                windows = window_bounds(asked.boxes, size, margin)
        else:
            assert asked.points is not None
            seeds = components.point_seeds(
                answers.logits, answers.origin, asked.points, np.ones(asked.points.shape[:2], bool)
            )
        mine = rows[part]
        yield from accept(answers, seeds, mine, limits[mine], windows, settings, boxed=asked.boxes is not None)


def _on_grid(candidate: Candidate, tile: Tile, grid: PixelGrid, class_id: int, scores: np.ndarray) -> FoundObject:
    x0, y0, x1, y1 = (int(v) for v in candidate.box)
    return FoundObject(
        bbox=(x0 + tile.x, y0 + tile.y, x1 + tile.x, y1 + tile.y),
        bits=np.packbits(candidate.mask),
        class_id=class_id,
        iou=candidate.iou,
        stability=candidate.stability,
        detection=float(scores[candidate.row]),
        tile=tile.index,
        seam=_seam(candidate.box, tile, grid),
        refined=candidate.refined,
        probabilities=candidate.probabilities,
    )


def _seam(box: np.ndarray, tile: Tile, grid: PixelGrid) -> int:
    """Sides where the tile, and not the grid, ends at the object."""
    x0, y0, x1, y1 = (int(v) for v in box)
    return (
        SEAM_LEFT * (x0 <= 0 < tile.x)
        + SEAM_TOP * (y0 <= 0 < tile.y)
        + SEAM_RIGHT * (x1 >= tile.size and tile.x + tile.size < grid.width)
        + SEAM_BOTTOM * (y1 >= tile.size and tile.y + tile.size < grid.height)
    )
