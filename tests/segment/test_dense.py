from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.errors import PromptError
from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.segment import decoding, dense
from wsi_pipeline.segment.dense import is_blank, read_batch, segment_batch
from wsi_pipeline.segment.objects import SEAM_BOTTOM, SEAM_LEFT, SEAM_RIGHT, SEAM_TOP
from wsi_pipeline.tiling.plan import TilePlan

ELLIPSES = [
    (30, 40, 9, 6),
    (62, 33, 7, 11),
    (96, 62, 8, 8),
    (150, 120, 10, 7),
    (3, 90, 8, 8),
    (197, 147, 9, 9),
    (120, 20, 4, 9),
]
GRID = PixelGrid(200, 150, Affine2D(), 0.5)


def plan_of(grid: PixelGrid = GRID, *, overlap: int = 32, block: int = 2, size: int = 64) -> TilePlan:
    return TilePlan(grid, size, overlap, np.ones(TilePlan.shape(grid, size, overlap), bool), block)


def run(fakes, workflow, plan, slide, *, segmenter=None, prompter=None, class_id=1):
    segmenter, prompter = segmenter or fakes.segmenter(), prompter or fakes.prompter()
    numbers = range(plan.n_batches)
    return [segment_batch(slide, plan, n, segmenter, prompter, workflow, class_id) for n in numbers]


@pytest.mark.parametrize("margin", [0.5, None])
@pytest.mark.parametrize("points_only", [False, True])
def test_every_ellipse_comes_back_pixel_by_pixel_at_its_place(fakes, workflow, margin, points_only) -> None:
    slide = fakes.slide(ELLIPSES, 200, 150)
    flow, prompter = workflow(window_margin=margin), fakes.prompter(points_only=points_only)
    whole = [slide.dark(Affine2D(), (200, 150)) & fakes.slide([one], 200, 150).on(GRID) for one in ELLIPSES]
    found = np.zeros(len(whole), bool)
    for objects in run(fakes, flow, plan_of(), slide, prompter=prompter):
        for index in np.flatnonzero(objects.seam == 0):
            mask = fakes.mask(objects, index, GRID)
            same = [np.array_equal(mask, one) for one in whole]
            assert sum(same) == 1
            found[np.argmax(same)] = True
        for index in np.flatnonzero(objects.seam):
            mask = fakes.mask(objects, index, GRID)
            assert any((mask & one).sum() == mask.sum() for one in whole)
    assert found.all()


def test_the_grid_may_lie_anywhere_and_have_any_resolution(fakes, workflow) -> None:
    grid = PixelGrid(90, 60, Affine2D(2.0, 2.0, 13.0, 7.0), 1.0)
    slide = fakes.slide([(100, 60, 18, 14)], 400, 300)
    objects = run(fakes, workflow(), plan_of(grid), slide)
    masks = [fakes.mask(batch, i, grid) for batch in objects for i in range(len(batch)) if not batch.seam[i]]
    assert masks
    for mask in masks:
        np.testing.assert_array_equal(mask, slide.on(grid))


def test_what_lies_outside_the_grid_is_cut_off_without_a_seam(fakes, workflow) -> None:
    grid = PixelGrid(64, 40, Affine2D(tx=50, ty=50), 0.5)
    slide = fakes.slide([(52, 70, 8, 6), (80, 91, 7, 7)])
    (objects,) = run(fakes, workflow(), plan_of(grid), slide)
    assert len(objects) == 2
    assert (objects.seam == 0).all()
    drawn = fakes.mask(objects, 0, grid) | fakes.mask(objects, 1, grid)
    np.testing.assert_array_equal(drawn, slide.on(grid))


@pytest.mark.parametrize(
    ("ellipse", "seam"),
    [
        ((64, 30, 12, 5), SEAM_RIGHT),
        ((30, 64, 5, 12), SEAM_BOTTOM),
        ((64, 64, 14, 14), SEAM_RIGHT | SEAM_BOTTOM),
        ((2, 30, 8, 5), 0),
    ],
)
def test_seams_are_the_inner_tile_borders_that_cut_the_object(fakes, workflow, ellipse, seam) -> None:
    plan = plan_of(PixelGrid(112, 112, Affine2D(), 0.5), overlap=16, block=1)
    slide = fakes.slide([ellipse])
    objects = segment_batch(slide, plan, 0, fakes.segmenter(), fakes.prompter(), workflow(), 1)
    assert objects.seam.tolist() == [seam]


def test_the_neighbour_sees_the_same_seam_from_the_other_side(fakes, workflow) -> None:
    plan = plan_of(PixelGrid(112, 112, Affine2D(), 0.5), overlap=16, block=1)
    slide = fakes.slide([(50, 50, 16, 16)])
    objects = segment_batch(slide, plan, 3, fakes.segmenter(), fakes.prompter(), workflow(), 1)
    assert objects.seam.tolist() == [SEAM_LEFT | SEAM_TOP]


def test_prompts_beyond_the_core_and_its_slack_are_left_to_the_neighbour(fakes, workflow) -> None:
    plan = plan_of(PixelGrid(112, 64, Affine2D(), 0.5), overlap=16, block=1)
    core_end = plan.tile(0, 0).core[2]
    slack = 16 * dense.SLACK
    for middle, asked in ((core_end + slack - 0.5, 1), (core_end + slack + 0.5, 0)):
        objects = segment_batch(
            fakes.slide([(middle, 30, 3, 3)]), plan, 0, fakes.segmenter(), fakes.prompter(), workflow(), 1
        )
        assert len(objects) == asked


def test_blank_tiles_are_neither_shown_to_the_prompter_nor_encoded(fakes, workflow) -> None:
    segmenter, prompter = fakes.segmenter(), fakes.prompter()
    plan = plan_of(PixelGrid(256, 64, Affine2D(), 0.5), overlap=0, block=4)
    slide = fakes.slide([(20, 30, 8, 8)])
    (objects,) = run(fakes, workflow(), plan, slide, segmenter=segmenter, prompter=prompter)
    assert prompter.seen == 1
    assert [len(pairs) for pairs in segmenter.encoded] == [1]
    assert objects.logits.shape == (4, 64, 64)
    assert (objects.logits[1:] == -128).all()


def test_a_slide_without_anything_is_never_encoded(fakes, workflow) -> None:
    segmenter = fakes.segmenter()
    for objects in run(fakes, workflow(), plan_of(), fakes.slide([]), segmenter=segmenter):
        assert len(objects) == 0
        assert objects.prompt_id.dtype.kind == "U"
    assert not segmenter.encoded


def test_noise_of_plain_glass_is_blank_and_one_dark_pixel_is_not() -> None:
    glass = np.random.default_rng(0).integers(236, 244, (3, 16, 16, 3)).astype(np.uint8)
    glass[1, 7, 3] = 100
    glass[2, 7, 3, 1] = 225
    assert is_blank(glass).tolist() == [True, False, False]


def test_tile_logits_are_those_of_the_kept_objects_and_background_elsewhere(fakes, workflow) -> None:
    slide = fakes.slide(ELLIPSES, 200, 150)
    plan = plan_of()
    for number, objects in enumerate(run(fakes, workflow(), plan, slide)):
        for row, tile in enumerate(plan.batch(number)):
            assert objects.logits_xy[row].tolist() == [tile.x, tile.y]
            drawn = np.zeros((GRID.height + 128, GRID.width + 128), bool)
            for index in np.flatnonzero(objects.tile == tile.index):
                drawn[64:-64, 64:-64] |= fakes.mask(objects, index, GRID)
            here = drawn[tile.y + 64 : tile.y + 128, tile.x + 64 : tile.x + 128]
            np.testing.assert_array_equal(objects.logits[row] > 0, here)
            assert set(np.unique(objects.logits[row])) <= {-128, -96, 96}


def test_objects_do_not_depend_on_the_order_of_the_prompts(fakes, workflow) -> None:
    slide, plan = fakes.slide(ELLIPSES, 200, 150), plan_of()
    forward = run(fakes, workflow(), plan, slide)
    backward = run(fakes, workflow(), plan, slide, prompter=fakes.prompter(order=lambda n: np.arange(n)[::-1]))
    for first, second in zip(forward, backward, strict=True):
        for name in ("bbox", "bits", "tile", "seam", "iou", "logits", "detection"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_images_read_ahead_give_the_same_objects(fakes, workflow) -> None:
    slide, plan = fakes.slide(ELLIPSES, 200, 150), plan_of()
    images = read_batch(slide, plan, 0, low=True, context_factor=2.0)
    slide.reads.clear()
    ahead = segment_batch(slide, plan, 0, fakes.segmenter(), fakes.prompter(), workflow(), 1, images=images)
    assert not slide.reads
    fresh = segment_batch(slide, plan, 0, fakes.segmenter(), fakes.prompter(), workflow(), 1)
    np.testing.assert_array_equal(ahead.bbox, fresh.bbox)
    np.testing.assert_array_equal(ahead.bits, fresh.bits)


def test_one_decoder_call_answers_all_tiles_of_a_batch(fakes, workflow) -> None:
    segmenter = fakes.segmenter()
    segment_batch(fakes.slide(ELLIPSES, 200, 150), plan_of(), 0, segmenter, fakes.prompter(), workflow(), 1)
    assert len(segmenter.asked) == 1


def test_answers_that_do_not_fit_in_memory_at_once_give_the_same_objects(fakes, workflow, monkeypatch) -> None:
    slide, plan = fakes.slide(ELLIPSES, 200, 150), plan_of()
    whole = run(fakes, workflow(), plan, slide)
    segmenter = fakes.segmenter()
    monkeypatch.setattr(decoding, "ANSWER_PX", 1000)
    for first, second in zip(whole, run(fakes, workflow(), plan, slide, segmenter=segmenter), strict=True):
        np.testing.assert_array_equal(first.bits, second.bits)
        np.testing.assert_array_equal(first.logits, second.logits)
    assert len(segmenter.asked) > plan.n_batches
    assert max(len(prompts) for prompts, _ in segmenter.asked) <= 3


def test_calls_do_not_depend_on_which_tiles_share_a_batch(fakes, workflow, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "ANSWER_PX", 3000)
    slide = fakes.slide([*ELLIPSES, (80, 100, 5, 5), (90, 110, 4, 4), (100, 122, 15, 11)], 200, 150)

    def boxes_by_call(block: int) -> set[tuple]:
        segmenter, plan, calls = fakes.segmenter(), plan_of(block=block), set()
        for number in range(plan.n_batches):
            start = len(segmenter.asked)
            segment_batch(slide, plan, number, segmenter, fakes.prompter(), workflow(), 1)
            for prompts, _ in segmenter.asked[start:]:
                for image in np.unique(prompts.image_index):
                    calls.add(tuple(prompts.boxes[prompts.image_index == image].ravel().tolist()))
        return calls

    assert boxes_by_call(1) == boxes_by_call(2) == boxes_by_call(8)


@pytest.mark.parametrize("setting", [{"min_iou": 0.95}, {"min_stability": 1.0}])
def test_answers_below_the_thresholds_are_dropped(fakes, workflow, setting) -> None:
    class Soft(fakes.segmenter):
        def decode(self, embedding, prompts, *, margin=None, guesses=False):
            answers = super().decode(embedding, prompts, margin=margin)
            answers.logits[:, ::2] = np.where(answers.logits[:, ::2] > 0, 0.5, answers.logits[:, ::2])
            return answers

    slide = fakes.slide([(30, 30, 9, 9)])
    plan = plan_of(PixelGrid(64, 64, Affine2D(), 0.5))
    assert [len(one) for one in run(fakes, workflow(), plan, slide, segmenter=Soft())] == [1]
    assert [len(one) for one in run(fakes, workflow(**setting), plan, slide, segmenter=Soft())] == [0]


def test_masks_that_spill_beyond_their_box_or_fill_the_patch_are_dropped(fakes, workflow) -> None:
    class Small(fakes.prompter):
        def _detect(self, image):
            found = super()._detect(image)
            middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
            return type(found)(np.concatenate([middle - 4, middle + 4], 1), found.scores, found.points)

    plan = plan_of(PixelGrid(64, 64, Affine2D(), 0.5))
    spilling = fakes.slide([(32, 32, 12, 12)])
    assert [len(one) for one in run(fakes, workflow(), plan, spilling, prompter=Small())] == [0]
    flooded = fakes.slide([(32, 32, 45, 45)])
    points = fakes.prompter(points_only=True)
    assert [len(one) for one in run(fakes, workflow(), plan, flooded, prompter=points)] == [0]


def test_a_neighbour_in_the_window_does_not_join_the_object(fakes, workflow) -> None:
    slide = fakes.slide([(41, 30, 7, 9), (24, 30, 8, 8)])
    plan = plan_of(PixelGrid(64, 64, Affine2D(), 0.5))
    (objects,) = run(fakes, workflow(), plan, slide)
    assert len(objects) == 2
    for index, ellipse in enumerate(slide.ellipses):
        np.testing.assert_array_equal(fakes.mask(objects, index, plan.grid), fakes.slide([ellipse]).on(plan.grid))


def test_a_hole_stays_a_hole(fakes, workflow) -> None:
    class Ring(fakes.slide):
        def dark(self, to_level0, size):
            hole = fakes.slide([(32, 32, 5, 5)]).dark(to_level0, size)
            return super().dark(to_level0, size) & ~hole

    slide = Ring([(32, 32, 14, 12)])
    plan = plan_of(PixelGrid(64, 64, Affine2D(), 0.5))
    (objects,) = run(fakes, workflow(), plan, slide)
    np.testing.assert_array_equal(fakes.mask(objects, 0, plan.grid), slide.on(plan.grid))


def test_one_object_prompted_twice_is_one_object(fakes, workflow) -> None:
    slide = fakes.slide([(32, 32, 10, 12)])
    plan = plan_of(PixelGrid(64, 64, Affine2D(), 0.5))
    twice = fakes.prompter(order=lambda n: np.repeat(np.arange(n), 2))
    assert [len(one) for one in run(fakes, workflow(), plan, slide, prompter=twice)] == [1]


def test_a_model_of_points_is_asked_by_points_and_one_of_boxes_refuses_them(fakes, workflow) -> None:
    slide = fakes.slide([(32, 32, 10, 12)])
    plan = plan_of(PixelGrid(64, 64, Affine2D(), 0.5))
    segmenter = fakes.segmenter(prompt_kinds=frozenset({"point"}), uses_low_patch=False)
    assert [len(one) for one in run(fakes, workflow(), plan, slide, segmenter=segmenter)] == [1]
    assert segmenter.asked[0][0].boxes is None
    boxes_only = fakes.segmenter(prompt_kinds=frozenset({"box"}))
    with pytest.raises(PromptError, match="takes no points"):
        run(fakes, workflow(), plan, slide, segmenter=boxes_only, prompter=fakes.prompter(points_only=True))


def test_a_model_of_boxes_and_points_is_asked_about_detections_by_boxes_alone(fakes, workflow) -> None:
    slide, segmenter = fakes.slide(ELLIPSES, 200, 150), fakes.segmenter()
    run(fakes, workflow(), plan_of(), slide, segmenter=segmenter)
    assert segmenter.prompt_kinds == {"box", "point", "mask"}
    assert all(prompts.boxes is not None and prompts.points is None for prompts, *_ in segmenter.asked)


def test_objects_carry_class_scores_and_tile(fakes, workflow) -> None:
    slide, plan = fakes.slide(ELLIPSES, 200, 150), plan_of()
    for number, objects in enumerate(run(fakes, workflow(), plan, slide, class_id=3)):
        assert (objects.class_id == 3).all()
        assert set(objects.tile.tolist()) <= {tile.index for tile in plan.batch(number)}
        np.testing.assert_allclose(objects.iou, 0.9)
        np.testing.assert_allclose(objects.stability, 1.0)
        assert ((objects.detection >= 0.5) & (objects.detection <= 1)).all()
        assert (objects.prompt_id == "").all()
