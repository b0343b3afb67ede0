from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.prompts.grid import PointGrid, has_stain
from wsi_pipeline.segment import crops, decoding
from wsi_pipeline.segment.automatic import MaskFinder
from wsi_pipeline.segment.candidates import Candidate
from wsi_pipeline.segment.crops import Crop, cut_by_crop, lay_out
from wsi_pipeline.segment.dense import segment_batch
from wsi_pipeline.segment.objects import REFINED, SEAM_RIGHT, ObjectBatch
from wsi_pipeline.segment.packed import PackedCandidate
from wsi_pipeline.segment.refine import RefineStage
from wsi_pipeline.segment.tile_extent import TileExtent
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.workflow import GridPrompts, RefineSettings, Workflow

SIZE = 64
ELLIPSES = [(18, 20, 7, 5), (44, 18, 6, 9), (24, 46, 9, 7)]


@dataclass
class Guesser:
    """Guesses the dark part at a point, and all that is dark, as logits of ±``edge``."""

    uses_low_patch: bool = False
    iou: tuple[float, float] = (0.9, 0.8)
    edge: float = 6
    input_size: int = SIZE
    mask_size: int = 16
    n_guesses: int = 2
    prompt_kinds: frozenset[str] = frozenset({"point"})
    encoded: list[PairImages] = field(default_factory=list)
    asked: list[np.ndarray] = field(default_factory=list)

    def encode(self, pairs: PairImages) -> np.ndarray:
        self.encoded.append(pairs)
        return pairs.high[..., 0] < 128

    def decode(self, embedding: np.ndarray, prompts: PromptBatch, *, margin=None, guesses: bool = False) -> MaskBatch:
        assert guesses
        self.asked.append(prompts.points[:, 0])
        masks = []
        for image, (x, y) in zip(prompts.image_index, prompts.points[:, 0].astype(int), strict=True):
            labels, _ = ndimage.label(embedding[image])
            masks += [(labels == labels[y, x]) & (labels > 0), embedding[image]]
        logits = np.where(masks, self.edge, -self.edge).astype(np.float32)
        return MaskBatch(logits, np.zeros((len(masks), 2), np.int64), np.tile(np.float32(self.iou), len(prompts)))


def grid(**options: Any) -> GridPrompts:
    """Points four px apart, thresholds that let the guesser pass, and no tidying."""
    chosen = {"spacing": "2 um", "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5, "min_mask_region_area": 0}
    return GridPrompts.model_validate({"source": "grid"} | chosen | options)


def no_crops(crop: Crop) -> PairImages:
    raise AssertionError("a crop was read")


def find(image: np.ndarray, segmenter: Any = None, *, nms_iou: float = 1.0, **options: Any) -> list[Candidate]:
    finder = MaskFinder(segmenter or Guesser(), grid(**options), nms_iou)
    return finder.find(PairImages(image[None]), TileExtent.whole(SIZE, 0.5), no_crops)


def drawn(one: Candidate) -> np.ndarray:
    canvas = np.zeros((SIZE, SIZE), bool)
    x0, y0, x1, y1 = one.box
    canvas[y0:y1, x0:x1] = one.mask
    return canvas


@pytest.fixture
def image(fakes) -> np.ndarray:
    return fakes.slide(ELLIPSES).read_grid(Affine2D(), (SIZE, SIZE))


@pytest.fixture
def run(fakes, workflow) -> Callable[..., list[ObjectBatch]]:
    """The objects of every batch of a plan."""

    def on(slide: Any, plan: TilePlan, segmenter: Any = None, refine: RefineStage | None = None, **options: Any):
        flow: Workflow = workflow("grid", nms_iou=options.pop("nms_iou", 1.0))
        flow = flow.model_copy(update={"prompts": grid(**options)})
        model = segmenter or Guesser()
        return [
            segment_batch(slide, plan, number, model, PointGrid(flow.prompts), flow, 1, refine=refine)
            for number in range(plan.n_batches)
        ]

    return on


def plan_of(width: int = 160, height: int = 112, *, overlap: int = 16, block: int = 2) -> TilePlan:
    plane = PixelGrid(width, height, Affine2D(), 0.5)
    return TilePlan(plane, SIZE, overlap, np.ones(TilePlan.shape(plane, SIZE, overlap), bool), block)


SLIDE = [(30, 30, 9, 6), (62, 33, 7, 11), (96, 62, 8, 8), (120, 90, 10, 7), (5, 90, 8, 8), (80, 100, 6, 9)]


def test_every_part_and_the_whole_are_found_once_pixel_by_pixel(image) -> None:
    found = find(image)
    labels, _ = ndimage.label(image[..., 0] < 128)
    wanted = {(labels == number).tobytes() for number in (1, 2, 3)} | {(labels > 0).tobytes()}
    assert len(found) == 4
    assert {drawn(one).tobytes() for one in found} == wanted


def test_masks_are_whole_however_many_parts_they_have(image) -> None:
    (whole,) = find(image, Guesser(iou=(0.2, 0.9)))
    np.testing.assert_array_equal(drawn(whole), image[..., 0] < 128)


def test_masks_of_low_predicted_iou_or_stability_are_dropped(image) -> None:
    assert len(find(image, pred_iou_thresh=0.85)) == 3
    assert len(find(image, pred_iou_thresh=0.9)) == 0
    assert len(find(image, Guesser(iou=(-0.5, -0.6)), pred_iou_thresh=0)) == 4
    shaky = Guesser(edge=0.8)
    assert find(image, shaky) == []
    assert len(find(image, shaky, stability_score_offset=0.7)) == 4


def test_of_masks_with_like_boxes_the_better_stays_and_a_part_stays_beside_its_whole(image) -> None:
    class Twice(Guesser):
        def decode(self, embedding, prompts, *, margin=None, guesses=False):
            one = super().decode(embedding, prompts, guesses=guesses)
            worse = np.where(np.roll(one.logits, 1, axis=2) > 0, np.float32(5), np.float32(-5))
            logits = np.stack([one.logits, worse], 1).reshape(-1, SIZE, SIZE)
            return MaskBatch(logits, one.origin.repeat(2, 0), (one.iou[:, None] - np.float32([0, 0.1])).ravel())

    found = find(image, Twice(n_guesses=4), box_nms_thresh=0.6)
    assert [one.iou for one in found] == pytest.approx([0.8, 0.9, 0.9, 0.9])
    assert len(find(image, Twice(n_guesses=4), box_nms_thresh=1)) > 100
    assert len(find(image, Twice(n_guesses=4), box_nms_thresh=1, nms_iou=0.5)) == 4


def test_parts_and_wholes_are_both_objects_of_a_run(run, fakes) -> None:
    (objects,) = run(fakes.slide(ELLIPSES), plan_of(SIZE, SIZE, overlap=0), nms_iou=0.5)
    assert len(objects) == 4
    np.testing.assert_allclose(objects.detection, 1)
    assert (objects.class_id == 1).all()


def test_small_parts_and_holes_are_removed(image) -> None:
    wanted = [drawn(one).tobytes() for one in find(image)]
    image[19:21, 17:19] = 255
    image[60, 60] = 40
    assert [drawn(one).tobytes() for one in find(image)] != wanted
    assert [drawn(one).tobytes() for one in find(image, min_mask_region_area="1.5 um2")] == wanted


def test_of_masks_that_are_alike_without_a_speck_the_one_that_had_none_stays(image) -> None:
    image[30:] = 255
    image[:, 30:] = 255
    image[60, 60] = 40
    assert [one.iou for one in find(image, Guesser(iou=(0.8, 0.9)))] == pytest.approx([0.8, 0.9])
    (one,) = find(image, Guesser(iou=(0.8, 0.9)), min_mask_region_area="1 um2")
    assert one.iou == pytest.approx(0.8)


def test_only_tissue_is_asked_about_and_glass_is_not_even_encoded(image) -> None:
    glass = Guesser()
    assert find(np.full_like(image, 245), glass) == []
    assert not glass.encoded
    segmenter = Guesser()
    find(image, segmenter)
    points = np.concatenate(segmenter.asked)
    assert has_stain(image, points, 2).all()
    assert 20 < len(points) < 16**2 / 2


@pytest.mark.parametrize(("points_per_batch", "answer_px"), [(7, 2**24), (64, 10 * SIZE**2), (64, 1)])
def test_a_call_has_no_more_answers_than_fit_and_no_more_points_than_allowed(
    image, monkeypatch, points_per_batch: int, answer_px: int
) -> None:
    whole = find(image)
    monkeypatch.setattr(decoding, "ANSWER_PX", answer_px)
    segmenter = Guesser()
    found = find(image, segmenter, points_per_batch=points_per_batch)
    counts = [len(points) for points in segmenter.asked]
    assert max(counts) == min(points_per_batch, max(1, answer_px // (2 * SIZE**2)))
    assert [drawn(one).tobytes() for one in found] == [drawn(one).tobytes() for one in whole]


def test_held_masks_are_packed_without_loss(image) -> None:
    for one in find(image):
        packed = PackedCandidate.of(one)
        again = packed.unpacked()
        assert packed.facts.mask.size == packed.facts.logits.size == 0
        assert len(packed.mask) + len(packed.logits) < one.mask.size + one.logits.size
        np.testing.assert_array_equal(again.mask, one.mask)
        np.testing.assert_array_equal(again.logits, one.logits)
        assert (again.box.tolist(), again.iou, again.logits_xy) == (one.box.tolist(), one.iou, one.logits_xy)


def facts(batches: list[ObjectBatch]) -> list[tuple]:
    """All objects, whatever batch and order they came in."""
    return sorted(
        (int(one.tile[i]), *one.bbox[i].tolist(), one.mask(i).tobytes(), int(one.seam[i]), float(one.iou[i]))
        for one in batches
        for i in range(len(one))
    )


def test_objects_do_not_depend_on_which_tiles_share_a_batch_nor_on_the_calls(run, fakes, monkeypatch) -> None:
    slide = fakes.slide(SLIDE)
    alone = facts(run(slide, plan_of(block=1)))
    assert len(alone) > 10
    assert facts(run(slide, plan_of(block=2))) == alone
    assert facts(run(slide, plan_of(block=4), points_per_batch=1)) == alone


def test_tile_logits_are_those_of_the_masks(run, fakes) -> None:
    plan = plan_of()
    slide = fakes.slide(SLIDE)
    for number, objects in enumerate(run(slide, plan)):
        for row, tile in enumerate(plan.batch(number)):
            dark = slide.dark(Affine2D(tx=tile.x, ty=tile.y), (SIZE, SIZE))
            np.testing.assert_array_equal(objects.logits[row] > 0, dark & (objects.tile == tile.index).any())


def test_objects_that_a_tile_cuts_have_a_seam_and_end_at_the_grid(run, fakes) -> None:
    plan = plan_of(112, 50, block=1)
    (left, _) = run(fakes.slide([(64, 45, 12, 12)]), plan, Guesser(iou=(0.9, 0)))
    assert left.seam.tolist() == [SEAM_RIGHT]
    tile = plan.batch(0)[0]
    assert left.bbox[0].tolist() == [52, 33, tile.x + SIZE, 50]


def test_points_beyond_the_core_and_its_slack_are_left_to_the_neighbour(run, fakes) -> None:
    plan = plan_of(112, SIZE, block=1)
    core_end = plan.tile(0, 0).core[2] + 4
    segmenter = Guesser()
    run(fakes.slide([(56, 30, 50, 20)]), plan, segmenter)
    first = np.concatenate(segmenter.asked[: len(segmenter.asked) // 2])
    assert core_end - 4 < first[:, 0].max() < core_end


def test_the_refine_stage_draws_the_masks_again(run, fakes) -> None:
    stage = RefineStage(fakes.refiner(uses_low_patch=False), RefineSettings())
    slide, plan = fakes.slide(ELLIPSES), plan_of(SIZE, SIZE, overlap=0)
    (coarse,) = run(slide, plan, Guesser(iou=(0.9, 0)))
    (refined,) = run(slide, plan, Guesser(iou=(0.9, 0)), stage)
    assert refined.refined.tolist() == [REFINED] * 3
    np.testing.assert_array_equal(refined.bbox, coarse.bbox)
    np.testing.assert_array_equal(refined.bits, coarse.bits)


def test_points_per_side_overrides_spacing(image) -> None:
    tissue = np.full_like(image, 150)
    (found,) = PointGrid(grid(points_per_side=5, spacing="3 um")).detect(PairImages(tissue[None]), mpp=0.5)
    assert np.unique(found.points[:, 0]).tolist() == pytest.approx([6.4, 19.2, 32, 44.8, 57.6])
    assert len(found.points) == 25


# --- crops ----------------------------------------------------------------------------------------------------------


@given(st.integers(256, 2048), st.integers(256, 2048), st.integers(0, 4), st.floats(0, 0.9))
def test_crops_of_each_layer_cover_the_image(width: int, height: int, layers: int, overlap: float) -> None:
    found = lay_out(width, height, layers, overlap)
    for layer in range(layers + 1):
        here = [crop for crop in found if crop.layer == layer]
        assert len(here) == 4**layer
        for first, last, length in (("x0", "x1", width), ("y0", "y1", height)):
            ends = sorted({(getattr(crop, first), getattr(crop, last)) for crop in here})
            assert ends[0][0] == 0
            assert max(last for _, last in ends) == length
            assert all(start <= before for (_, before), (start, _) in pairwise(ends))


@given(st.integers(0, 3), st.integers(0, 1023), st.integers(1, 500))
def test_a_mask_near_a_crops_border_counts_as_cut_only_where_the_tile_goes_on(
    side: int, start: int, extent: int
) -> None:
    for crop in lay_out(1024, 1024, 1, 0.34)[1:]:
        box = np.array([400, 400, 500, 500])
        box[side % 2], box[side % 2 + 2] = start, min(start + extent, 1024)
        ends = box - np.array([0, 0, 1, 1])
        border = np.array([crop.x0, crop.y0, crop.x1, crop.y1])
        near = np.abs(ends - border) <= 20
        goes_on = np.abs(ends - np.array([0, 0, 1024, 1024])) > 20
        assert cut_by_crop(box[None], crop, 1024)[0] == (near & goes_on).any()


class Watched:
    """A slide that keeps what was read of it."""

    def __init__(self, slide: Any) -> None:
        self.slide, self.reads = slide, []

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        self.reads.append(to_level0)
        return self.slide.read_grid(to_level0, size)


CROPPED = {"crop_n_layers": 1, "crop_overlap_ratio": 0.375}


def test_crops_are_read_from_the_slide_as_fine_as_they_fill_the_input(run, fakes, monkeypatch) -> None:
    monkeypatch.setattr(crops, "NEAR_BORDER", 2)
    slide = Watched(fakes.slide([(60, 70, 18, 16), (110, 96, 12, 20)]))
    plane = PixelGrid(SIZE, SIZE, Affine2D(2, 2, 10, 20), 1.0)
    plan = TilePlan(plane, SIZE, 0, np.ones((1, 1), bool), 1)
    segmenter = Guesser(uses_low_patch=True)
    (objects,) = run(slide, plan, segmenter, **CROPPED)
    seen = segmenter.encoded[1:]
    corners = [(crop.x0, crop.y0) for crop in lay_out(SIZE, SIZE, 1, 0.375)[1:]]
    assert len(seen) == 4
    for pair, (x, y) in zip(seen, corners, strict=True):
        scale = 2 * 44 / SIZE
        high = Affine2D(scale, scale, 10 + 2 * x, 20 + 2 * y)
        np.testing.assert_array_equal(pair.high[0], slide.slide.read_grid(high, (SIZE, SIZE)))
        low = Affine2D(2 * scale, 2 * scale, high.tx - scale * SIZE / 2, high.ty - scale * SIZE / 2)
        np.testing.assert_array_equal(pair.low[0], slide.slide.read_grid(low, (SIZE, SIZE)))
    found = np.logical_or.reduce([fakes.mask(objects, number, plane) for number in range(len(objects))])
    assert np.mean(found == slide.slide.on(plane)) > 0.99


def test_crops_without_points_are_not_read(run, fakes) -> None:
    slide = Watched(fakes.slide([(10, 10, 6, 6)]))
    segmenter = Guesser()
    run(slide, plan_of(SIZE, SIZE, overlap=0), segmenter, **CROPPED)
    assert len(segmenter.encoded) == 2
    assert len(slide.reads) == 2


def test_what_a_crop_cuts_is_left_to_the_tile(run, fakes, monkeypatch) -> None:
    monkeypatch.setattr(crops, "NEAR_BORDER", 2)
    slide = fakes.slide([(32, 32, 20, 20), (8, 8, 7, 7)])
    (objects,) = run(slide, plan_of(SIZE, SIZE, overlap=0), Guesser(iou=(0.9, 0)), **CROPPED)
    (alone,) = run(slide, plan_of(SIZE, SIZE, overlap=0), Guesser(iou=(0.9, 0)))
    assert objects.bbox.tolist() == alone.bbox.tolist()


def test_of_masks_seen_in_tile_and_crop_the_crops_stays(run, fakes, monkeypatch) -> None:
    monkeypatch.setattr(crops, "NEAR_BORDER", 2)

    class Eager(Guesser):
        def decode(self, embedding, prompts, *, margin=None, guesses=False):
            found = super().decode(embedding, prompts, guesses=guesses)
            closer = len(self.encoded) > 1
            return MaskBatch(found.logits, found.origin, found.iou - np.float32(0.2 * closer))

    (objects,) = run(fakes.slide([(14, 14, 8, 8)]), plan_of(SIZE, SIZE, overlap=0), Eager(iou=(0.9, 0)), **CROPPED)
    assert objects.iou.tolist() == pytest.approx([0.7])


def test_windows_of_a_crop_are_placed_like_whole_patches() -> None:
    rng = np.random.default_rng(0)
    crop = lay_out(SIZE, SIZE, 1, 0.375)[4]
    patches = np.full((2, SIZE, SIZE), -8, np.float32)
    origin = np.array([[3, 40], [20, 0]])
    windows = rng.normal(0, 4, (2, 24, 24)).astype(np.float32)
    for patch, window, (x, y) in zip(patches, windows, origin, strict=True):
        patch[y : y + 24, x : x + 24] = window
    iou = np.ones(2, np.float32)
    whole = crops.onto_tile(MaskBatch(patches, np.zeros((2, 2), np.int64), iou), crop, SIZE)
    placed = crops.onto_tile(MaskBatch(windows, origin, iou), crop, SIZE)
    np.testing.assert_array_equal(whole.logits, placed.logits)
    assert placed.origin.tolist() == [[crop.x0, crop.y0]] * 2
    assert placed.logits.shape == (2, 44, 44)
