"""Prompted mode: every prompt asked about on a patch pair that suits it, which grows while the answer is cut off."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from wsi_pipeline.geometry import PixelGrid
from wsi_pipeline.models.roles import PairImages, Recogniser, Refiner, Segmenter
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.segment.decoding import decode_in_calls, select
from wsi_pipeline.segment.found import FoundObject, collect
from wsi_pipeline.segment.memory import in_halves
from wsi_pipeline.segment.objects import KEPT_COARSE, ObjectBatch
from wsi_pipeline.segment.placement import Box, PairKey, Placement
from wsi_pipeline.segment.questions import Question, batch, pose
from wsi_pipeline.segment.recognise import ANY_SIZE, RecogniseStage
from wsi_pipeline.segment.recognise_prompted import recognise_verdicts
from wsi_pipeline.segment.redraw import Placed, own_outline, redraw_answers, redraw_outlines
from wsi_pipeline.segment.refine import RefineStage, encode_again
from wsi_pipeline.segment.repeats import without_repeats
from wsi_pipeline.segment.verdicts import Asked, Drawn, Judgement, Verdict, judge, settled
from wsi_pipeline.tiling.read import GridReader, prefetch, read_pairs
from wsi_pipeline.workflow import QuPathPrompts, SegmentSettings, Workflow

logger = logging.getLogger(__name__)

PAIRS_AT_ONCE = 16
"""Pairs of one embedding: enough to fill a GPU, 100 MB of pixels at 1024 px."""

OUTSIDE = "the prompt lies outside the region of the run"

Fallback = Literal["keep", "drop"]
Outcome = Literal["dropped", "kept outline", "cut"]


class PromptIssue(NamedTuple):
    """A prompt that did not get a whole answer.

    Attributes:
        prompt_id: its id.
        outcome: ``dropped``, ``kept outline`` (the prompt's own is the result), or ``cut`` (the object goes on beyond
            the largest patch).
        reason: why, for the report.
    """

    prompt_id: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class _Job:
    """What all prompts of a task have in common.

    Without a segmenter only outlines can be answered; with a refiner they are masks already, and are drawn again.
    Without either they are the objects.
    """

    slide: GridReader
    segmenter: Segmenter | None
    refine: RefineStage | None
    recognise: RecogniseStage | None
    settings: SegmentSettings
    placement: Placement
    use_outline: bool

    def refines(self, prompt: Prompt) -> bool:
        return self.refine is not None and prompt.kind == "mask" and self.use_outline

    @property
    def draws(self) -> bool:
        return self.segmenter is not None or self.refine is not None

    def outlines_only(self) -> _Job:
        """The same for prompts whose own outlines are the objects."""
        return replace(self, segmenter=None, refine=None)


def segment_prompts(
    slide: GridReader,
    prompts: Sequence[Prompt],
    grid: PixelGrid,
    segmenter: Segmenter | None,
    workflow: Workflow,
    class_ids: Mapping[str, int],
    *,
    refine: RefineStage | None = None,
    recognise: RecogniseStage | None = None,
    fallback: Fallback = "drop",
) -> tuple[ObjectBatch, list[PromptIssue]]:
    """Segment the object of every prompt, each on a patch pair of its own size.

    Args:
        slide: where to read.
        prompts: of one task (``group_prompts``) or of a whole slide; an answer does not depend on the others.
        grid: the working grid; nothing outside it is kept.
        segmenter: draws the masks; None where outlines are only refined, or recognised.
        workflow: its ``segment`` section and ``tiling.context_factor`` count here.
        class_ids: id of each class name; 0 is used for names that are not in it and for prompts without a class.
        refine: draws them, and outlines, again.
        recognise: says what they are; see ``RecogniseStage.named`` for the class that follows.
        fallback: what an outline without a usable answer leaves: itself (``keep``, with a predicted IoU and
            stability of 0) or nothing (``drop``).

    Returns:
        The objects in the order of their prompts, and every prompt without a whole answer with the reason.
    """
    settings = workflow.segment or SegmentSettings()
    size = _models(segmenter, refine, recognise)[0].input_size or ANY_SIZE
    job = _Job(
        slide,
        segmenter,
        refine,
        recognise,
        settings,
        Placement(grid, size, settings.object_share, workflow.tiling.context_factor),
        not isinstance(workflow.prompts, QuPathPrompts) or workflow.prompts.use_outline,
    )
    default_class = workflow.prompts.class_name if workflow.prompts is not None else None
    objects: list[FoundObject] = []
    issues: list[PromptIssue] = []
    verdicts = _answer_all(job, prompts)
    outlines = _own_outlines(job, prompts, verdicts) if fallback == "keep" else {}
    for index, (prompt, verdict) in enumerate(zip(prompts, verdicts, strict=True)):
        kept = verdict.found or outlines.get(index)
        issues += _issues(prompt, verdict, kept)
        if kept is not None:
            class_id = class_ids.get(prompt.class_name or default_class or "", 0)
            objects.append(replace(kept, class_id=class_id, prompt_id=prompt.id))
    objects = without_repeats(objects, {prompt.id: prompt.source_id for prompt in prompts})
    none = np.zeros((0, size, size), np.int8), np.zeros((0, 2))
    if recognise is None:
        return collect(objects, *none), issues
    return recognise.named(collect(objects, *none, n_classes=recognise.n_classes)), issues


def _models(
    segmenter: Segmenter | None, refine: RefineStage | None, recognise: RecogniseStage | None
) -> list[Segmenter | Refiner | Recogniser]:
    """Those there are, stage by stage."""
    models: list[Segmenter | Refiner | Recogniser] = [] if segmenter is None else [segmenter]
    models += [] if refine is None else [refine.refiner]
    return models + ([] if recognise is None else [recognise.recogniser])


def _issues(prompt: Prompt, verdict: Verdict, kept: FoundObject | None) -> list[PromptIssue]:
    """What the report should say about a prompt: nothing, or one issue."""
    if verdict.found is not None and verdict.found.refined == KEPT_COARSE and prompt.kind == "mask":
        return [PromptIssue(prompt.id, "kept outline", "the refined mask is another object, see refine.min_agreement")]
    if verdict.found is not None:
        reason = "the object reaches beyond the largest patch allowed by segment.max_growth"
        return [PromptIssue(prompt.id, "cut", reason)] if verdict.cut else []
    issue = PromptIssue(prompt.id, "dropped" if kept is None else "kept outline", verdict.reason)
    logger.info("prompt %s %s: %s", *issue)
    return [issue]


def _answer_all(job: _Job, prompts: Sequence[Prompt]) -> list[Verdict]:
    """The verdict on every prompt, after as many doublings of its patch as it takes and is allowed."""
    verdicts = [Verdict(reason=OUTSIDE) for _ in prompts]
    steps = {
        index: job.placement.step_of(prompt)
        for index, prompt in enumerate(prompts)
        if _meets(job.placement.box_of(prompt), job.placement.grid)
    }
    for _ in range(job.settings.max_growth + 1):
        cut = {}
        for index, verdict in _ask_round(job, prompts, steps):
            # a larger patch on which the answer fails does not take back the cut answer of the smaller one
            if verdict.found is not None or verdicts[index].found is None:
                verdicts[index] = verdict
            if verdict.cut:
                cut[index] = steps[index] + 1
        steps = cut
    return verdicts


def _own_outlines(job: _Job, prompts: Sequence[Prompt], verdicts: Sequence[Verdict]) -> dict[int, FoundObject | None]:
    """The outlines of the prompts without a usable answer, by number, recognised on the patches they had first."""
    failed = [index for index, verdict in enumerate(verdicts) if verdict.found is None]
    found = {index: own_outline(prompts[index], job.placement.grid) for index in failed}
    if job.recognise is not None:
        steps = {index: job.placement.step_of(prompts[index]) for index, one in found.items() if one is not None}
        found |= {index: verdict.found for index, verdict in _ask_round(job.outlines_only(), prompts, steps)}
    return found


def _meets(box: Box, grid: PixelGrid) -> bool:
    x0, y0, x1, y1 = box
    return x1 >= 0 and y1 >= 0 and x0 <= grid.width and y0 <= grid.height


def _ask_round(job: _Job, prompts: Sequence[Prompt], steps: Mapping[int, int]) -> Iterator[tuple[int, Verdict]]:
    """Ask each prompt once, at its step; prompts on one pair share its embedding."""
    on_pair: dict[PairKey, list[int]] = {}
    for index, step in steps.items():
        on_pair.setdefault(job.placement.pair_of(prompts[index], step), []).append(index)
    keys = sorted(on_pair)
    parts = [keys[start : start + PAIRS_AT_ONCE] for start in range(0, len(keys), PAIRS_AT_ONCE)]
    for part, images in prefetch((part, _read(job, part)) for part in parts):

        def ask(
            rows: Sequence[int], part: Sequence[PairKey] = part, images: PairImages = images
        ) -> list[tuple[int, Verdict]]:
            on_these, these = {part[row]: on_pair[part[row]] for row in rows}, select(images, np.array(rows))
            verdicts = _ask_pairs(job, prompts, on_these, these)
            if job.recognise is None:
                return [(index, verdict.done()) for index, verdict in verdicts]
            asked = {key: [(index, prompts[index]) for index in indices] for key, indices in on_these.items()}
            return recognise_verdicts(job.recognise, job.slide, job.placement, asked, these, dict(verdicts))

        yield from in_halves(ask, range(len(part)))


def _ask_pairs(
    job: _Job, prompts: Sequence[Prompt], on_pair: Mapping[PairKey, Sequence[int]], images: PairImages
) -> Iterator[tuple[int, Verdict]]:
    """Encode some pairs, given with the indices of their prompts and in the order of ``images``, and ask."""
    groups: dict[tuple[str, tuple[bool, bool, bool]], list[Asked]] = {}
    outlines: list[Placed] = []
    for image, (key, indices) in enumerate(on_pair.items()):
        for index in indices:
            prompt = prompts[index]
            question = _pose(job, prompt, key)
            if not job.draws and prompt.kind != "point":
                yield index, Verdict(own_outline(prompt, job.placement.grid), reason=OUTSIDE)
            elif job.refines(prompt):
                outlines.append(Placed(index, key, image))
            elif question is None:
                yield index, Verdict(reason=_unanswerable(job, prompt))
            else:
                asked = Asked(index, prompt, question, key, image)
                groups.setdefault((prompt.kind, question.make_up), []).append(asked)
    drawn: list[tuple[Placed, Drawn]] = []
    if job.segmenter is not None and groups:
        embedding = job.segmenter.encode(images)
        for _, asked_alike in sorted(groups.items()):
            for asked, judgement in _ask(job, job.segmenter, embedding, asked_alike, job.settings.window_margin):
                where = Placed(asked.index, asked.key, asked.image)
                if judgement.drawn is None or judgement.cut or job.refine is None:
                    yield asked.index, settled(judgement, where.key, job.placement)
                else:
                    drawn.append((where, judgement.drawn))
    if job.refine is not None and (drawn or outlines):
        pairs = [job.placement.pair(key) for key in on_pair]
        embedding = encode_again(job.refine.refiner, job.slide, pairs, images)
        yield from redraw_answers(job.refine, embedding, drawn, job.placement)
        asked_for = [(where, prompts[where.number]) for where in outlines]
        yield from redraw_outlines(job.refine, embedding, asked_for, job.placement)


def _pose(job: _Job, prompt: Prompt, key: PairKey) -> Question | None:
    if job.segmenter is None or job.refines(prompt):
        return None
    return pose(prompt, job.placement.to_patch(key), job.segmenter, use_outline=job.use_outline)


def _unanswerable(job: _Job, prompt: Prompt) -> str:
    if job.segmenter is None:
        return f"the workflow only {'refines' if job.refine else 'names'} outlines, and this is a {prompt.kind}"
    return f"the model takes no {prompt.kind} prompts"


def _read(job: _Job, keys: Sequence[PairKey]) -> PairImages:
    low = any(model.uses_low_patch for model in _models(job.segmenter, job.refine, job.recognise))
    return read_pairs(job.slide, [job.placement.pair(key) for key in keys], low=low)


def _ask(
    job: _Job, segmenter: Segmenter, embedding: Any, asked: Sequence[Asked], margin: float | None
) -> Iterator[tuple[Asked, Judgement]]:
    """Judgements on questions of one kind and make-up; what its window cuts is asked again on the whole patch."""
    prompts = batch([one.question for one in asked], np.array([one.image for one in asked]))
    margin = margin if prompts.boxes is not None else None
    again: list[Asked] = []
    for rows, answers in decode_in_calls(segmenter, embedding, prompts, margin=margin):
        here = [asked[row] for row in rows]
        for one, judgement in zip(here, judge(here, answers, job.placement, job.settings, margin), strict=True):
            if judgement is None:
                again.append(one)
            else:
                yield one, judgement
    if again:
        yield from _ask(job, segmenter, embedding, again, None)
