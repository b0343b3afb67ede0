"""The refine stage: sharper masks, the guard, and what is shared with the segment stage."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.segment import decoding
from wsi_pipeline.segment.dense import segment_batch
from wsi_pipeline.segment.objects import KEPT_COARSE, NOT_REFINED, REFINED
from wsi_pipeline.segment.prompted import segment_prompts
from wsi_pipeline.segment.refine import CoarseMask, RefineStage, sharpen
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.workflow import RefineSettings, SegmentSettings

GRID = PixelGrid(200, 150, Affine2D(), 0.5)
ELLIPSES = [(30, 40, 9, 6), (62, 33, 7, 11), (96, 62, 8, 8), (150, 120, 10, 7)]


def stage(refiner, **settings) -> RefineStage:
    return RefineStage(refiner, RefineSettings(model="fake", **settings))


def outline(x: float, y: float, a: float, b: float, name: str = "a", kind: str = "mask") -> Prompt:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    shape = shapely.Polygon(np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], axis=1))
    return Prompt(name, kind, shape if kind == "mask" else shapely.box(*shape.bounds))


def blur(segmenter_class):
    """A segmenter whose masks are a px too large on every side."""

    class Blurred(segmenter_class):
        def decode(self, embedding, prompts, *, margin=None, guesses=False):
            answers = super().decode(embedding, prompts, margin=margin, guesses=guesses)
            grown = answers.logits > 0
            for axis in (1, 2):
                grown = grown | np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
            answers.logits[:] = np.where(grown, 6, -6)
            return answers

    return Blurred()


def dense(fakes, workflow, slide, segmenter, stage_):
    plan = TilePlan(GRID, 64, 32, np.ones(TilePlan.shape(GRID, 64, 32), bool), 2)
    numbers = range(plan.n_batches)
    return [segment_batch(slide, plan, n, segmenter, fakes.prompter(), workflow(), 1, refine=stage_) for n in numbers]


def test_dense_objects_become_those_of_the_refiner(fakes, workflow) -> None:
    slide = fakes.slide(ELLIPSES, 200, 150)
    true = [fakes.slide([one], 200, 150).on(GRID) for one in ELLIPSES]
    coarse = dense(fakes, workflow, slide, blur(fakes.segmenter), None)
    sharp = dense(fakes, workflow, slide, blur(fakes.segmenter), stage(fakes.refiner()))
    assert not any((batch.refined != NOT_REFINED).any() for batch in coarse)
    found = 0
    for batch in sharp:
        assert (batch.refined == REFINED).all()
        np.testing.assert_allclose(batch.iou, 0.8)
        for index in np.flatnonzero(batch.seam == 0):
            mask = fakes.mask(batch, index, GRID)
            found += any(np.array_equal(mask, one) for one in true)
    assert found >= len(ELLIPSES)


def test_both_stages_see_the_same_pairs(fakes, workflow) -> None:
    segmenter, refiner = fakes.segmenter(), fakes.refiner()
    dense(fakes, workflow, fakes.slide(ELLIPSES, 200, 150), segmenter, stage(refiner))
    assert len(segmenter.encoded) == len(refiner.encoded) > 0
    for one, other in zip(segmenter.encoded, refiner.encoded, strict=True):
        np.testing.assert_array_equal(one.high, other.high)
        np.testing.assert_array_equal(one.low, other.low)


@pytest.mark.parametrize("size", [32, 256])
def test_a_refiner_of_another_patch_size_sees_the_same_fields(fakes, workflow, size) -> None:
    slide = fakes.slide(ELLIPSES, 200, 150)
    segmenter, refiner = blur(fakes.segmenter), fakes.refiner(input_size=size, mask_size=16)
    for batch in dense(fakes, workflow, slide, segmenter, stage(refiner)):
        assert (batch.refined == REFINED).all()
        for index in np.flatnonzero(batch.seam == 0):
            mask = fakes.mask(batch, index, GRID)
            agreements = [
                (mask & true).sum() / (mask | true).sum()
                for true in (fakes.slide([one], 200, 150).on(GRID) for one in ELLIPSES)
            ]
            assert max(agreements) > (0.95 if size > 64 else 0.75)
    assert {pairs.high.shape[1] for pairs in refiner.encoded} == {size}
    outlined, _ = segment_prompts(
        slide,
        [outline(*ELLIPSES[3], "box", "box")],
        GRID,
        fakes.segmenter(),
        workflow("qupath"),
        {},
        refine=stage(refiner),
    )
    assert outlined.refined.tolist() == [REFINED]


@pytest.mark.parametrize("answers", [True, False])
def test_a_mask_the_refiner_leaves_stays_and_is_counted(fakes, workflow, answers) -> None:
    slide = fakes.slide(ELLIPSES, 200, 150)
    guard = stage(fakes.refiner(answers=answers), min_agreement=0.99 if answers else 0)
    coarse = dense(fakes, workflow, slide, blur(fakes.segmenter), None)
    kept = dense(fakes, workflow, slide, blur(fakes.segmenter), guard)
    assert sum(map(len, kept)) > 0
    for one, other in zip(coarse, kept, strict=True):
        assert (other.refined == KEPT_COARSE).all()
        np.testing.assert_array_equal(one.bbox, other.bbox)
        np.testing.assert_array_equal(one.bits, other.bits)


def test_an_outline_is_a_coarse_mask_and_needs_no_segmenter(fakes, workflow) -> None:
    slide = fakes.slide(ELLIPSES, 200, 150)
    prompts = [outline(x + 1, y - 1, a * 1.2, b * 1.2, str(i)) for i, (x, y, a, b) in enumerate(ELLIPSES)]
    objects, issues = segment_prompts(slide, prompts, GRID, None, workflow("qupath"), {}, refine=stage(fakes.refiner()))
    assert issues == []
    assert objects.refined.tolist() == [REFINED] * len(ELLIPSES)
    assert objects.prompt_id.tolist() == ["0", "1", "2", "3"]
    for index, ellipse in enumerate(ELLIPSES):
        true = fakes.slide([ellipse], 200, 150).on(GRID)
        found = fakes.mask(objects, index, GRID)
        assert (found & true).sum() / (found | true).sum() > 0.9


def test_an_outline_far_from_the_answer_stays_as_it_was_drawn(fakes, workflow) -> None:
    slide = fakes.slide([(60, 60, 4, 4)], 200, 150)
    drawn = outline(60, 60, 25, 25)
    objects, issues = segment_prompts(slide, [drawn], GRID, None, workflow("qupath"), {}, refine=stage(fakes.refiner()))
    assert objects.refined.tolist() == [KEPT_COARSE]
    assert [(issue.outcome, "min_agreement" in issue.reason) for issue in issues] == [("kept outline", True)]
    area = fakes.mask(objects, 0, GRID).sum()
    assert abs(area - drawn.geometry.area) < 0.03 * area


def test_boxes_go_through_the_segmenter_first(fakes, workflow) -> None:
    slide, segmenter, refiner = fakes.slide(ELLIPSES, 200, 150), blur(fakes.segmenter), fakes.refiner()
    prompts = [outline(*ELLIPSES[0], "box", "box"), outline(*ELLIPSES[3], "outline")]
    objects, _ = segment_prompts(slide, prompts, GRID, segmenter, workflow("qupath"), {}, refine=stage(refiner))
    assert objects.refined.tolist() == [REFINED, REFINED]
    assert sum(len(asked) for asked, _ in segmenter.asked) == 1
    assert sum(len(coarse) for coarse, _, _ in refiner.asked) == 2
    np.testing.assert_array_equal(fakes.mask(objects, 0, GRID), fakes.slide(ELLIPSES[:1], 200, 150).on(GRID))


def test_without_a_segmenter_boxes_are_reported_not_guessed(fakes, workflow) -> None:
    slide = fakes.slide(ELLIPSES, 200, 150)
    asked = [outline(*ELLIPSES[0], "box", "box")]
    objects, issues = segment_prompts(slide, asked, GRID, None, workflow("qupath"), {}, refine=stage(fakes.refiner()))
    assert len(objects) == 0
    assert "only refines outlines" in issues[0].reason


@pytest.mark.parametrize("shape", [(0, 0), (3, 0)])
def test_an_empty_mask_is_left_alone(fakes, shape) -> None:
    size = 64
    embedding = fakes.refiner().encode(type("Pairs", (), {"high": np.full((1, size, size, 3), 255, np.uint8)}))
    masks = [CoarseMask(0, (5, 5), np.zeros(shape, bool)), CoarseMask(0, (5, 5), np.zeros((4, 4), bool))]
    (part,) = sharpen(stage(fakes.refiner()), embedding, masks, np.array([[0, 0, size, size]] * 2), size)
    assert not part.accepted.any()


def test_ten_thousand_masks_are_asked_about_in_bounded_calls(fakes, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "ANSWER_PX", 2**18)
    size, refiner = 64, fakes.refiner()
    pairs = type("Pairs", (), {"high": np.full((1, size, size, 3), 40, np.uint8)})
    masks = [CoarseMask(0, (i % 60, i // 60 % 60), np.ones((3, 3), bool)) for i in range(10_000)]
    limits = np.tile([0, 0, size, size], (len(masks), 1))
    rows = np.concatenate([part.rows for part in sharpen(stage(refiner, points=0), pairs, masks, limits, size)])
    assert sorted(rows.tolist()) == list(range(10_000))
    assert max(len(coarse) * refiner.mask_size**2 for coarse, _, _ in refiner.asked) <= 2**18


def test_a_stage_asks_as_its_settings_say(fakes, workflow) -> None:
    refiner = fakes.refiner()
    one = stage(refiner, points=3, window_margin=0.25)
    segment_prompts(
        fakes.slide(ELLIPSES, 200, 150), [outline(*ELLIPSES[0])], GRID, None, workflow("qupath"), {}, refine=one
    )
    assert [(margin, points) for _, margin, points in refiner.asked] == [(0.25, 3)]


def test_settings_may_be_a_bare_name() -> None:
    assert RefineSettings.model_validate("pa-sam").model == "pa-sam"
    assert SegmentSettings.model_validate("sam") == SegmentSettings(model="sam")
