"""The recognise stage: what objects are called, whatever else is in the batch, and at one look at every patch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.models.roles import PairImages, Regions
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.segment import recognise as recognising
from wsi_pipeline.segment.dense import segment_batch
from wsi_pipeline.segment.found import FoundObject, collect
from wsi_pipeline.segment.prompted import segment_prompts
from wsi_pipeline.segment.recognise import RecogniseStage, outline_on_patch, recognise_masks, run_classes
from wsi_pipeline.segment.refine import RefineStage
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.workflow import RecogniseSettings, RefineSettings, parse_workflow

GRID = PixelGrid(200, 150, Affine2D(), 0.5)
ELLIPSES = [(30, 40, 9, 6), (62, 33, 7, 11), (96, 62, 8, 8), (150, 120, 10, 7)]
SIZES = ("small", "large")


@dataclass
class SizeRecogniser:
    """Sure that an object is large by the share of ``full`` px that it has on a patch of 64 px; checks what it gets."""

    input_size: int | None = None
    uses_low_patch: bool = False
    class_names: tuple[str, ...] = SIZES
    full: float = 400
    encoded: list[PairImages] = field(default_factory=list)
    asked: list[Regions] = field(default_factory=list)

    def encode(self, pairs: PairImages) -> PairImages:
        assert self.input_size in (None, pairs.high.shape[1])
        assert pairs.low is not None or not self.uses_low_patch
        self.encoded.append(pairs)
        return pairs

    def recognise(self, embedding: PairImages, regions: Regions) -> np.ndarray:
        self.asked.append(regions)
        side = embedding.high.shape[1]
        told = np.zeros((len(regions), 2), np.float32)
        for row, (box, mask) in enumerate(zip(regions.boxes, regions.masks, strict=True)):
            x0, y0, x1, y1 = box
            assert 0 <= x0 < x1 <= side
            assert 0 <= y0 < y1 <= side
            assert mask.shape == (y1 - y0, x1 - x0)
            assert mask.any()
            assert 0 <= regions.image_index[row] < len(embedding)
            told[row, 1] = min(mask.sum() * (64 / side) ** 2 / self.full, 1)
        told[:, 0] = 1 - told[:, 1]
        return told


def stage(recogniser=None, classes=(None, *SIZES), **settings) -> RecogniseStage:
    recogniser = recogniser or SizeRecogniser()
    return RecogniseStage.of(recogniser, RecogniseSettings(classes=recogniser.class_names, **settings), classes)


def plan(block: int = 2) -> TilePlan:
    return TilePlan(GRID, 64, 32, np.ones(TilePlan.shape(GRID, 64, 32), bool), block)


def dense(fakes, flow, recognise, *, block=2, segmenter=None, order=np.arange, refine=None):
    slide, tiles = fakes.slide(ELLIPSES, 200, 150), plan(block)
    segmenter = segmenter or fakes.segmenter()
    prompter = fakes.prompter(order=order)
    return [
        segment_batch(slide, tiles, n, segmenter, prompter, flow, 0, refine=refine, recognise=recognise)
        for n in range(tiles.n_batches)
    ]


def rows_of(batches) -> list[tuple]:
    return sorted(
        (int(one.tile[i]), *one.bbox[i].tolist(), int(one.class_id[i]), one.probabilities[i].tobytes())
        for one in batches
        for i in range(len(one))
    )


def area(batch, index: int) -> int:
    return int(batch.mask(index).sum())


def outline(x: float, y: float, a: float, b: float, name: str = "a", kind: str = "mask", **fields) -> Prompt:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    shape = shapely.Polygon(np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], axis=1))
    return Prompt(name, kind, shape if kind == "mask" else shapely.box(*shape.bounds), **fields)


NAMES_ONLY = {"name": "test", "mpp": 0.5, "prompts": {"source": "qupath"}, "recognise": {"classes": list(SIZES)}}


def test_every_object_of_a_tile_gets_probabilities_and_the_likelier_class(fakes, workflow) -> None:
    found = 0
    for batch in dense(fakes, workflow(), stage()):
        assert batch.probabilities.shape == (len(batch), 2)
        for index in range(len(batch)):
            large = min(area(batch, index) / 400, 1)
            np.testing.assert_allclose(batch.probabilities[index], [1 - large, large], rtol=1e-6)
            assert batch.class_id[index] == (2 if large > 0.5 else 1)
            found += 1
    assert found >= len(ELLIPSES)


def test_without_the_stage_there_are_no_probabilities(fakes, workflow) -> None:
    assert {batch.probabilities.shape for batch in dense(fakes, workflow(), None)} >= {(1, 0)}


def test_batches_of_tiles_and_the_order_of_objects_change_nothing(fakes, workflow) -> None:
    expected = rows_of(dense(fakes, workflow(), stage()))
    for block in (1, 3, 9):
        assert rows_of(dense(fakes, workflow(), stage(), block=block)) == expected
    assert rows_of(dense(fakes, workflow(), stage(), order=lambda n: np.arange(n)[::-1])) == expected


def test_only_tiles_with_objects_are_encoded_again(fakes, workflow) -> None:
    recogniser = SizeRecogniser()
    batches = dense(fakes, workflow(), stage(recogniser), block=9)
    assert [len(pairs) for pairs in recogniser.encoded] == [len(np.unique(batch.tile)) for batch in batches]


@pytest.mark.parametrize("size", [32, 128])
def test_a_recogniser_of_another_patch_size_sees_the_same_objects(fakes, workflow, size) -> None:
    recogniser = SizeRecogniser(input_size=size)
    same, other = dense(fakes, workflow(), stage()), dense(fakes, workflow(), stage(recogniser))
    assert {pairs.high.shape[1] for pairs in recogniser.encoded} == {size}
    for one, another in zip(same, other, strict=True):
        np.testing.assert_array_equal(one.bits, another.bits)
        np.testing.assert_allclose(one.probabilities, another.probabilities, atol=0.0 if size > 64 else 0.12)


def test_low_patches_come_along_where_the_recogniser_looks_at_them(fakes) -> None:
    flow = parse_workflow(NAMES_ONLY)
    for size in (None, 128):
        recogniser = SizeRecogniser(input_size=size, uses_low_patch=True)
        segment_prompts(
            fakes.slide(ELLIPSES), [outline(*ELLIPSES[0])], GRID, None, flow, {}, recognise=stage(recogniser)
        )
        assert [pairs.low is not None for pairs in recogniser.encoded] == [True]


def test_objects_are_asked_about_in_calls_that_fit_and_each_once(monkeypatch) -> None:
    monkeypatch.setattr(recognising, "REGIONS_AT_ONCE", 7)
    recogniser, pairs = SizeRecogniser(), PairImages(np.zeros((1, 64, 64, 3), np.uint8))
    masks = [((i % 60, i // 60), np.ones((1 + i % 3, 1), bool)) for i in range(100)]
    told = recognise_masks(stage(recogniser), pairs, 0, masks, 64)
    assert [len(regions) for regions in recogniser.asked] == [7] * 14 + [2]
    np.testing.assert_allclose(told[:, 1] * 400, [1 + i % 3 for i in range(100)], rtol=1e-5)
    monkeypatch.setattr(recognising, "REGION_PX", 4)
    np.testing.assert_array_equal(recognise_masks(stage(), pairs, 0, masks, 64), told)


def test_one_look_at_every_patch_where_the_encoder_is_shared(fakes, workflow, small_sam) -> None:
    """A segmenter and a recogniser on one encoder, tiles of several batches and a growing patch."""
    import torch

    from wsi_pipeline.models.encoding import shared_encoder

    sam = small_sam()
    encoder = shared_encoder(
        sam.image_encoder, sam.variant.pixels, 256, device=torch.device("cpu"), dtype=torch.float32
    )
    encoder.users += 1

    class Shared(SizeRecogniser):
        def encode(self, pairs):
            encoder.encode(pairs.high)
            return super().encode(pairs)

    class Segmenter(fakes.segmenter):
        def encode(self, pairs):
            encoder.encode(pairs.high, pairs.low)
            return super().encode(pairs)

    grid = PixelGrid(700, 300, Affine2D(), 0.5)
    slide = fakes.slide([(100, 100, 30, 20), (380, 90, 20, 20), (500, 200, 25, 40)], 700, 300)
    tiles = TilePlan(grid, 256, 64, np.ones(TilePlan.shape(grid, 256, 64), bool), 2)
    recogniser = Shared(input_size=256)
    for number in range(tiles.n_batches):
        segment_batch(
            slide, tiles, number, Segmenter(256, 64), fakes.prompter(), workflow(), 0, recognise=stage(recogniser)
        )
    looked_at = sum(len(pairs) for pairs in recogniser.encoded)
    assert looked_at == 3
    assert (encoder.computed, encoder.recalled) == (2 * looked_at, looked_at)  # the high and the low patch of each
    click = Prompt("a", "point", shapely.Point(100, 100), positive=np.array([[100.0, 100.0]]))
    segment_prompts(
        fakes.slide([(100, 100, 150, 20)], 700, 300),
        [click],
        grid,
        Segmenter(256, 64),
        workflow("qupath"),
        {},
        recognise=stage(recogniser),
    )
    assert sum(len(pairs) for pairs in recogniser.encoded) > looked_at
    assert encoder.recalled == sum(len(pairs) for pairs in recogniser.encoded)


def test_memory_that_runs_out_changes_nothing(fakes, workflow) -> None:
    class Narrow(SizeRecogniser):
        def encode(self, pairs):
            if len(pairs) > 1:
                raise MemoryError
            return super().encode(pairs)

    expected = rows_of(dense(fakes, workflow(), stage(), block=9))
    assert rows_of(dense(fakes, workflow(), stage(Narrow()), block=9)) == expected


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_answers_are_recognised_on_their_own_patches(fakes, workflow, kind) -> None:
    prompts = [outline(*one, str(i), kind) for i, one in enumerate(ELLIPSES)]
    recogniser = SizeRecogniser()
    slide = fakes.slide(ELLIPSES)
    for refine in (None, RefineStage(fakes.refiner(), RefineSettings(model="fake"))):
        objects, issues = segment_prompts(
            slide, prompts, GRID, fakes.segmenter(), workflow("qupath"), {}, refine=refine, recognise=stage(recogniser)
        )
        assert issues == []
        large = np.minimum([area(objects, i) / 400 for i in range(len(objects))], 1)
        np.testing.assert_allclose(objects.probabilities[:, 1], large, rtol=1e-6)
        assert objects.class_id.tolist() == [2 if share > 0.5 else 1 for share in large]


def test_an_object_found_on_a_larger_patch_is_recognised_there(fakes, workflow) -> None:
    recogniser = SizeRecogniser()
    click = Prompt("a", "point", shapely.Point(100, 75), positive=np.array([[100.0, 75.0]]))
    slide = fakes.slide([(100, 75, 60, 50)], 200, 150)
    objects, _ = segment_prompts(
        slide, [click], GRID, fakes.segmenter(), workflow("qupath"), {}, recognise=stage(recogniser)
    )
    assert len(objects) == 1
    assert objects.probabilities[0, 1] == recogniser_share(recogniser)


def recogniser_share(recogniser: SizeRecogniser) -> np.float32:
    """What it said of the last region that it saw."""
    return np.float32(min(recogniser.asked[-1].masks[0].sum() / recogniser.full, 1))


def test_outlines_stay_as_they_are_and_get_names_without_any_other_model(fakes) -> None:
    prompts = [
        *(outline(*one, str(i), class_name="Gland" if i == 0 else None) for i, one in enumerate(ELLIPSES)),
        outline(60, 100, 0.2, 0.2, "tiny"),
        outline(100, 75, 90, 70, "huge"),
        Prompt("dot", "point", shapely.Point(9, 9), positive=np.array([[9.0, 9.0]])),
        outline(900, 900, 9, 9, "elsewhere"),
    ]
    recogniser = SizeRecogniser(input_size=64)
    objects, issues = segment_prompts(
        fakes.slide(ELLIPSES),
        prompts,
        GRID,
        None,
        parse_workflow(NAMES_ONLY),
        {"Gland": 1},
        recognise=stage(recogniser, classes=(None, "Gland", *SIZES)),
    )
    assert objects.prompt_id.tolist() == ["0", "1", "2", "3", "tiny", "huge"]
    for index, prompt in enumerate(prompts[:4]):
        assert abs(area(objects, index) - prompt.geometry.area) < 0.06 * prompt.geometry.area
    assert not np.isnan(objects.probabilities).any()
    assert objects.class_id[4:].tolist() == [2, 3]
    assert [(one.prompt_id, one.outcome) for one in issues] == [("dot", "dropped"), ("elsewhere", "dropped")]
    assert "names outlines" in issues[0].reason
    assert "outside" in issues[1].reason


def test_an_outline_kept_for_want_of_an_answer_is_recognised_too(fakes, workflow) -> None:
    blank = fakes.slide([])
    prompts = [outline(*one, str(i)) for i, one in enumerate(ELLIPSES)]
    objects, issues = segment_prompts(
        blank, prompts, GRID, fakes.segmenter(), workflow("qupath"), {}, recognise=stage(), fallback="keep"
    )
    assert [issue.outcome for issue in issues] == ["kept outline"] * 4
    large = np.minimum([area(objects, i) / 400 for i in range(4)], 1)
    np.testing.assert_allclose(objects.probabilities[:, 1], large, rtol=1e-6)
    dropped, _ = segment_prompts(
        blank, prompts, GRID, fakes.segmenter(), workflow("qupath"), {}, recognise=stage(), fallback="drop"
    )
    assert dropped.probabilities.shape == (0, 2)


@given(st.permutations(range(6)), st.integers(1, 6))
def test_the_order_of_objects_and_how_calls_are_cut_change_no_answer(order, at_once) -> None:
    masks = [((5 * i, 7 * i), np.ones((1 + i, 2 + i), bool)) for i in range(6)]
    pairs = PairImages(np.zeros((2, 64, 64, 3), np.uint8))
    expected = recognise_masks(stage(), pairs, 1, masks, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognising, "REGIONS_AT_ONCE", at_once)
        told = recognise_masks(stage(), pairs, 1, [masks[i] for i in order], 64)
    np.testing.assert_array_equal(told, expected[list(order)])


@given(
    st.integers(0, 63), st.integers(0, 63), st.integers(1, 64), st.integers(1, 64), st.sampled_from([16, 40, 256, 518])
)
def test_any_mask_lies_within_a_patch_of_any_size(x, y, width, height, size) -> None:
    mask = np.zeros((min(height, 64 - y), min(width, 64 - x)), bool)
    mask[-1, -1] = True
    pairs = PairImages(np.zeros((1, size, size, 3), np.uint8))
    recognise_masks(stage(SizeRecogniser(input_size=size)), pairs, 0, [((x, y), mask)], 64)


@given(st.floats(-80, 300), st.floats(-80, 300), st.floats(0.01, 150), st.floats(0.01, 150))
def test_any_outline_has_a_px_on_its_patch(x, y, width, height) -> None:
    (left, top), mask = outline_on_patch(shapely.box(x, y, x + width, y + height), Affine2D(), 256)
    assert mask.any()
    assert left >= 0
    assert top >= 0
    assert left + mask.shape[1] <= 256
    assert top + mask.shape[0] <= 256


def named(probabilities, before, **settings) -> list[int]:
    recogniser = SizeRecogniser(class_names=("a", "b", "other"))
    chosen = stage(recogniser, classes=(None, "mine", "b", "a"), background="other", **settings)
    objects = [
        FoundObject((0, 0, 1, 1), np.zeros(1, np.uint8), class_id, 1.0, 1.0, probabilities=row)
        for row, class_id in zip(np.array(probabilities, np.float32), before, strict=True)
    ]
    batch = collect(objects, np.zeros((0, 1, 1), np.int8), np.zeros((0, 2)), n_classes=3)
    return chosen.named(batch).class_id.tolist()


def test_the_class_follows_from_the_probabilities() -> None:
    sure, unsure, background = [0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]
    unseen, tie = [np.nan] * 3, [0.5, 0.5, 0]
    rows = [sure, unsure, background, unseen, tie]
    assert named(rows, [0] * 5) == [3, 2, 0, 0, 3]
    assert named(rows, [1] * 5) == [3, 2, 0, 1, 3]
    assert named(rows, [1] * 5, min_probability=0.5) == [3, 0, 0, 1, 3]
    assert named(rows, [1, 0] + [1] * 3, keep_classes=True) == [1, 2, 1, 1, 1]
    assert named([], []) == []


def test_the_classes_of_a_run_are_its_own_and_then_the_words() -> None:
    settings = RecogniseSettings(classes=["Tumor", "Stroma", "nothing"], background="nothing")
    assert run_classes((None, "Stroma"), settings, settings.names) == (None, "Stroma", "Tumor")
    assert run_classes((None, "Stroma"), None, ()) == (None, "Stroma")


def test_automatic_masks_are_recognised_tile_by_tile(fakes, workflow) -> None:
    recogniser = SizeRecogniser(full=4096)
    batches = dense(fakes, workflow("grid"), stage(recogniser), block=9)
    assert sum(map(len, batches)) > 0
    assert {len(pairs) for pairs in recogniser.encoded} == {1}
    for batch in batches:
        large = np.array([area(batch, index) for index in range(len(batch))]) / 4096
        np.testing.assert_allclose(batch.probabilities[:, 1], large, rtol=1e-6)
