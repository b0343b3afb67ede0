"""Prompted mode: answers, and outlines a person drew, drawn again by the refine stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_pipeline.geometry import PixelGrid
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.segment import components
from wsi_pipeline.segment.found import FoundObject
from wsi_pipeline.segment.objects import KEPT_COARSE, NOT_REFINED, REFINED
from wsi_pipeline.segment.onto_grid import outline_onto_grid
from wsi_pipeline.segment.placement import PairKey, Placement
from wsi_pipeline.segment.refine import CoarseMask, RefineStage, sharpen
from wsi_pipeline.segment.verdicts import Drawn, Judgement, Verdict, cut_by_patch, drawn_of, settled, whole_patches


@dataclass(frozen=True, slots=True)
class Placed:
    """A prompt on its pair.

    Attributes:
        number: of the prompt within its task.
        key: the pair.
        image: row of the pair among the encoded ones.
    """

    number: int
    key: PairKey
    image: int


def redraw_answers(
    stage: RefineStage, embedding: Any, drawn: Sequence[tuple[Placed, Drawn]], placement: Placement
) -> Iterator[tuple[int, Verdict]]:
    """Verdicts on a segmenter's answers, by number of the prompt; the guard may keep the answer as it was."""
    masks = [CoarseMask(where.image, one.xy, one.logits > 0) for where, one in drawn]
    for row, new in _sharpened(stage, embedding, masks, placement):
        where, coarse = drawn[row]
        kept = settled(Judgement(coarse), where.key, placement, refined=KEPT_COARSE)
        yield where.number, kept if new is None else _settled(new, where, placement)


def redraw_outlines(
    stage: RefineStage, embedding: Any, outlines: Sequence[tuple[Placed, Prompt]], placement: Placement
) -> Iterator[tuple[int, Verdict]]:
    """Verdicts on a person's outlines, by number of the prompt; the guard may keep the outline itself."""
    size, masks = placement.input_size, []
    for where, prompt in outlines:
        mask = rasterise(prompt.geometry, placement.to_patch(where.key), size, size)
        left, top, right, bottom = components.tight_boxes(mask[None])[0].tolist()
        masks.append(CoarseMask(where.image, (left, top), mask[top:bottom, left:right]))
    for row, new in _sharpened(stage, embedding, masks, placement):
        where, prompt = outlines[row]
        kept = Verdict(own_outline(prompt, placement.grid, KEPT_COARSE))
        yield where.number, kept if new is None else _settled(new, where, placement)


def own_outline(prompt: Prompt, grid: PixelGrid, refined: int = NOT_REFINED) -> FoundObject | None:
    """The prompt's own outline as an object; a point has none."""
    if prompt.kind == "point":
        return None
    packed = outline_onto_grid(prompt.geometry, grid)
    return None if packed is None else FoundObject(*packed, class_id=0, iou=0.0, stability=0.0, refined=refined)


def _settled(new: Drawn, where: Placed, placement: Placement) -> Verdict:
    cut = cut_by_patch(new.box, where.key, placement)
    return settled(Judgement(new, cut=cut), where.key, placement, refined=REFINED)


def _sharpened(
    stage: RefineStage, embedding: Any, masks: Sequence[CoarseMask], placement: Placement
) -> Iterator[tuple[int, Drawn | None]]:
    """Rows of masks and their new ones; None where the coarse one has to stay."""
    if not masks:
        return
    size = placement.input_size
    for part in sharpen(stage, embedding, masks, whole_patches(len(masks), size), size):
        for index, row in enumerate(part.rows.tolist()):
            yield row, drawn_of(part.found, index) if part.accepted[index] else None
