from __future__ import annotations

import numpy as np
import pytest
import shapely
from scipy import ndimage

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.segment.prompted import segment_prompts

GRID = PixelGrid(400, 300, Affine2D(), 0.5)
CLASSES = {"Nucleus": 1, "Gland": 2}


def outline(x: float, y: float, a: float, b: float) -> shapely.Polygon:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return shapely.Polygon(np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], axis=1))


def prompt(ellipse, kind: str = "box", name: str = "a", grow: float = 1.0, **fields) -> Prompt:
    x, y, a, b = ellipse
    if kind == "point":
        return Prompt(name, "point", shapely.Point(x, y), positive=np.array([[x, y]], float), **fields)
    shape = outline(x, y, a * grow, b * grow)
    return Prompt(name, kind, shape if kind == "mask" else shapely.box(*shape.bounds), **fields)


def run(fakes, workflow, slide, prompts, *, grid=GRID, segmenter=None, fallback="drop", source="qupath", **segment):
    segmenter = segmenter or fakes.segmenter()
    flow = workflow(source, **segment)
    return segment_prompts(slide, prompts, grid, segmenter, flow, CLASSES, fallback=fallback)


@pytest.mark.parametrize("kind", ["box", "mask", "point"])
def test_an_object_at_the_working_resolution_comes_back_pixel_by_pixel(fakes, workflow, kind) -> None:
    slide = fakes.slide([(100, 80, 12, 14), (140, 80, 10, 10)])
    objects, issues = run(fakes, workflow, slide, [prompt(slide.ellipses[0], kind, class_name="Gland")])
    assert issues == []
    expected = fakes.slide(slide.ellipses[:1]).on(GRID)
    np.testing.assert_array_equal(fakes.mask(objects, 0, GRID), expected)
    assert objects.prompt_id.tolist() == ["a"]
    assert objects.class_id.tolist() == [2]
    assert objects.tile.tolist() == [-1]
    assert objects.seam.tolist() == [0]
    assert np.isnan(objects.detection).all()
    assert objects.logits.shape == (0, 64, 64)


@pytest.mark.parametrize("working_scale", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("half_axis", [5, 14, 40, 110])
def test_the_mask_is_within_a_pixel_of_the_object_whatever_the_resolutions(
    fakes, workflow, working_scale, half_axis
) -> None:
    ellipse = (203.0, 151.0, half_axis, 0.8 * half_axis)
    slide = fakes.slide([ellipse])
    grid = PixelGrid(
        int(360 / working_scale), int(280 / working_scale), Affine2D(working_scale, working_scale, 9, 7), 1
    )
    objects, issues = run(fakes, workflow, slide, [prompt(ellipse)], grid=grid)
    assert issues == []
    mask, truth = fakes.mask(objects, 0, grid), slide.on(grid)
    # a px of the patch, and at least a px of the grid
    patch_scale = max(2 * half_axis / 32, 1.0)
    reach = int(np.ceil(max(2 ** np.ceil(np.log2(patch_scale)) / working_scale, 1)))
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach + 0.5
    assert not (mask & ~ndimage.binary_dilation(truth, disc)).any()
    assert not (ndimage.binary_erosion(truth, disc) & ~mask).any()
    assert mask.any()


def test_prompts_in_level0_pixels_of_a_grid_that_starts_elsewhere(fakes, workflow) -> None:
    ellipse = (203, 151, 12, 10)
    slide = fakes.slide([ellipse])
    grid = PixelGrid(120, 100, Affine2D(tx=150, ty=100), 0.5)
    objects, _ = run(fakes, workflow, slide, [prompt(ellipse)], grid=grid)
    np.testing.assert_array_equal(fakes.mask(objects, 0, grid), slide.on(grid))


def test_the_patch_grows_until_the_object_fits(fakes, workflow) -> None:
    slide = fakes.slide([(200, 150, 100, 90)])
    segmenter = fakes.segmenter()
    click = prompt((200, 150, 1, 1), "point")
    objects, issues = run(fakes, workflow, slide, [click], segmenter=segmenter)
    assert issues == []
    assert len(segmenter.encoded) == 3
    mask, truth = fakes.mask(objects, 0, GRID), slide.on(GRID)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95


def test_an_object_beyond_the_largest_patch_is_kept_and_reported_as_cut(fakes, workflow) -> None:
    slide = fakes.slide([(200, 150, 100, 20)])
    objects, issues = run(fakes, workflow, slide, [prompt((200, 150, 1, 1), "point")], max_growth=1)
    assert [(issue.prompt_id, issue.outcome) for issue in issues] == [("a", "cut")]
    x0, _, x1, _ = objects.bbox[0]
    assert x1 - x0 == 128


def test_an_answer_that_fails_on_the_larger_patch_leaves_the_smaller_ones(fakes, workflow) -> None:
    class Unsure(fakes.segmenter):
        def decode(self, embedding, prompts, *, margin=None, guesses=False):
            self.iou = 0.9 if len(self.encoded) == 1 else 0.1
            return super().decode(embedding, prompts, margin=margin)

    slide = fakes.slide([(200, 150, 100, 20)])
    objects, issues = run(fakes, workflow, slide, [prompt((200, 150, 1, 1), "point")], segmenter=Unsure())
    assert [issue.outcome for issue in issues] == ["cut"]
    assert objects.iou.tolist() == [pytest.approx(0.9)]


def test_a_patch_does_not_grow_beyond_the_region_of_the_run(fakes, workflow) -> None:
    slide = fakes.slide([(15, 20, 60, 12)])
    segmenter = fakes.segmenter()
    grid = PixelGrid(40, 40, Affine2D(), 0.5)
    objects, issues = run(fakes, workflow, slide, [prompt((15, 20, 1, 1), "point")], grid=grid, segmenter=segmenter)
    assert issues == []
    assert len(segmenter.encoded) == 1
    np.testing.assert_array_equal(fakes.mask(objects, 0, grid), slide.on(grid))


def test_an_object_cut_by_its_window_is_asked_about_on_the_whole_patch(fakes, workflow) -> None:
    ellipse = (100, 80, 14, 13)
    slide = fakes.slide([ellipse])
    segmenter = fakes.segmenter()
    small = prompt(ellipse, grow=0.75)
    objects, issues = run(fakes, workflow, slide, [small], segmenter=segmenter, window_margin=0.1)
    assert issues == []
    assert [margin for _, margin in segmenter.asked] == [0.1, None]
    assert len(segmenter.encoded) == 1
    np.testing.assert_array_equal(fakes.mask(objects, 0, GRID), slide.on(GRID))


def many(fakes):
    rng = np.random.default_rng(3)
    ellipses = [(30 + 40 * i, 30 + 40 * j, *rng.uniform(5, 14, 2)) for i in range(9) for j in range(6)]
    kinds = ["box", "mask", "point"]
    return fakes.slide(ellipses), [prompt(one, kinds[i % 3], f"id{i:02d}") for i, one in enumerate(ellipses)]


def test_answers_depend_neither_on_the_order_nor_on_the_other_prompts(fakes, workflow) -> None:
    slide, prompts = many(fakes)
    objects, issues = run(fakes, workflow, slide, prompts)
    assert issues == []
    assert objects.prompt_id.tolist() == [one.id for one in prompts]
    order = np.random.default_rng(0).permutation(len(prompts))
    shuffled, _ = run(fakes, workflow, slide, [prompts[i] for i in order])
    for place, index in enumerate(order):
        np.testing.assert_array_equal(fakes.mask(objects, index, GRID), fakes.mask(shuffled, place, GRID))
    alone, _ = run(fakes, workflow, slide, [prompts[7]])
    np.testing.assert_array_equal(fakes.mask(objects, 7, GRID), fakes.mask(alone, 0, GRID))


def test_prompts_that_share_a_pair_share_its_embedding(fakes, workflow) -> None:
    slide, prompts = many(fakes)
    segmenter = fakes.segmenter(input_size=256, mask_size=64)
    objects, _ = run(fakes, workflow, slide, prompts, segmenter=segmenter)
    assert len(objects) == len(prompts)
    assert sum(len(pairs) for pairs in segmenter.encoded) < len(prompts) / 2


def test_outlines_are_asked_with_box_and_mask_as_far_as_the_model_takes_them(fakes, workflow) -> None:
    slide = fakes.slide([(100, 80, 12, 14)])
    one = prompt(
        slide.ellipses[0], "mask", positive=np.array([[100.0, 80.0]]), negative=np.array([[110.0, 95.0], [9e3, 1]])
    )
    for kinds, expected in (
        ({"box"}, (True, False, False)),
        ({"box", "mask"}, (True, False, True)),
        ({"box", "point", "mask"}, (True, True, True)),
        ({"point"}, (False, True, False)),
    ):
        segmenter = fakes.segmenter(prompt_kinds=frozenset(kinds))
        objects, issues = run(fakes, workflow, slide, [one], segmenter=segmenter)
        asked = segmenter.asked[0][0]
        assert tuple(part is not None for part in (asked.boxes, asked.points, asked.masks)) == expected
        assert len(objects) == 1
        assert issues == []
        if asked.point_labels is not None:
            assert asked.point_labels.tolist() == [[1, 0]]


def test_the_coarse_mask_lies_where_the_outline_is(fakes, workflow) -> None:
    slide = fakes.slide([(100, 80, 14, 9)])
    segmenter = fakes.segmenter()
    run(fakes, workflow, slide, [prompt(slide.ellipses[0], "mask")], segmenter=segmenter)
    mask, image = segmenter.asked[0][0].masks[0], segmenter.encoded[0].high[0, :, :, 0]
    shrunk = (image < 128).reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert mask.max() == -mask.min() == 6
    assert np.abs((mask / 6 + 1) / 2 - shrunk).max() < 0.2


def test_a_box_is_asked_by_its_middle_when_the_model_takes_points_only(fakes, workflow) -> None:
    slide = fakes.slide([(100, 80, 12, 14)])
    segmenter = fakes.segmenter(prompt_kinds=frozenset({"point"}))
    objects, _ = run(fakes, workflow, slide, [prompt(slide.ellipses[0])], segmenter=segmenter)
    np.testing.assert_array_equal(fakes.mask(objects, 0, GRID), slide.on(GRID))


def test_parts_of_one_outline_stay_one_object_and_specks_are_left_out(fakes, workflow) -> None:
    parts = [(92, 80, 6, 8), (108, 80, 5, 8)]
    slide = fakes.slide([*parts, (100, 90, 1.2, 1.2)])
    both = shapely.union_all([outline(*one) for one in parts])
    objects, _ = run(fakes, workflow, slide, [Prompt("a", "mask", both)])
    np.testing.assert_array_equal(fakes.mask(objects, 0, GRID), fakes.slide(parts).on(GRID))


@pytest.mark.parametrize(
    ("setting", "reason"), [({"min_iou": 0.95}, "predicted IoU 0.90"), ({}, "found nothing"), ({"spill": 1}, "outside")]
)
def test_a_failed_prompt_says_why_and_leaves_its_outline_only_when_asked_to(fakes, workflow, setting, reason) -> None:
    ellipse = (100, 80, 12, 10)
    wide = (100, 80, 25, 22) if setting.pop("spill", 0) else ellipse
    slide = fakes.slide([] if reason == "found nothing" else [wide])
    one = prompt(ellipse, "mask", class_name="Nucleus")
    objects, issues = run(fakes, workflow, slide, [one], **setting)
    assert len(objects) == 0
    assert [issue.outcome for issue in issues] == ["dropped"]
    assert reason in issues[0].reason

    objects, issues = run(fakes, workflow, slide, [one], fallback="keep", **setting)
    assert [issue.outcome for issue in issues] == ["kept outline"]
    assert reason in issues[0].reason
    assert objects.class_id.tolist() == [1]
    assert objects.iou.tolist() == [0]
    expected = fakes.slide([ellipse]).on(GRID)
    mask = fakes.mask(objects, 0, GRID)
    assert (mask ^ expected).sum() <= 0.03 * expected.sum()


def test_with_keep_every_outline_yields_an_object_in_order(fakes, workflow) -> None:
    slide = fakes.slide([(100, 80, 12, 10)])
    prompts = [
        prompt((100, 80, 12, 10), "mask", "yes"),
        prompt((300, 200, 9, 9), "mask", "no"),
        prompt((40, 200, 0.1, 0.1), "mask", "tiny"),
    ]
    objects, issues = run(fakes, workflow, slide, prompts, fallback="keep")
    assert objects.prompt_id.tolist() == ["yes", "no", "tiny"]
    assert [issue.prompt_id for issue in issues] == ["no", "tiny"]


def test_prompts_outside_the_region_of_the_run_are_reported_and_not_read(fakes, workflow) -> None:
    slide = fakes.slide([(100, 80, 12, 10)])
    objects, issues = run(fakes, workflow, slide, [prompt((600, 80, 12, 10), "mask")], fallback="keep")
    assert len(objects) == 0
    assert "outside the region" in issues[0].reason
    assert not slide.reads


def test_points_for_a_model_of_boxes_are_reported(fakes, workflow) -> None:
    slide = fakes.slide([(100, 80, 12, 10)])
    segmenter = fakes.segmenter(prompt_kinds=frozenset({"box"}))
    objects, issues = run(fakes, workflow, slide, [prompt(slide.ellipses[0], "point")], segmenter=segmenter)
    assert len(objects) == 0
    assert issues[0].reason == "the model takes no point prompts"
    assert not segmenter.encoded


def test_negative_points_are_passed_on_and_do_not_pull_in_their_object(fakes, workflow) -> None:
    slide = fakes.slide([(100, 80, 8, 8), (120, 80, 8, 8)])
    click = Prompt(
        "a", "point", shapely.Point(100, 80), positive=np.array([[100.0, 80.0]]), negative=np.array([[120.0, 80.0]])
    )
    segmenter = fakes.segmenter()
    objects, _ = run(fakes, workflow, slide, [click], segmenter=segmenter)
    assert segmenter.asked[0][0].point_labels.tolist() == [[1, 0]]
    np.testing.assert_array_equal(fakes.mask(objects, 0, GRID), fakes.slide(slide.ellipses[:1]).on(GRID))


def test_no_prompts_make_an_empty_batch(fakes, workflow) -> None:
    objects, issues = run(fakes, workflow, fakes.slide([]), [])
    assert len(objects) == 0
    assert objects.bbox.shape == (0, 4)
    assert issues == []


def test_classes_of_the_prompt_come_before_the_workflows(fakes, workflow) -> None:
    slide = fakes.slide([(100, 80, 12, 10)])
    named = [prompt(slide.ellipses[0], name="a", class_name="Gland"), prompt(slide.ellipses[0], name="b")]
    objects, _ = run(fakes, workflow, slide, named, source="tissue-boxes")
    assert objects.class_id.tolist() == [2, 0]
