"""Matcher finds what looks like outlined examples, says where there is nothing, and always says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from safetensors.torch import save_file
from shapely.geometry.base import BaseGeometry

from benchmarks.similar.outliers import inject
from wsi_pipeline.errors import PromptError, ResolutionError, SlideError, WeightsError, WorkflowError
from wsi_pipeline.geometry import Region
from wsi_pipeline.models.matcher import examples as example_reading
from wsi_pipeline.models.matcher.build import build_matcher
from wsi_pipeline.models.matcher.examples import example_classes, read_outlines
from wsi_pipeline.models.matcher.facts import example_files, segment_files
from wsi_pipeline.models.matcher.features import load_timm, mean_of, unit
from wsi_pipeline.models.matcher.merge import Metrics, adding, apart, select, survivors
from wsi_pipeline.models.matcher.model import MatcherModel
from wsi_pipeline.models.matcher.presence import likeness
from wsi_pipeline.models.matcher.prompts import boxes_from_components, cluster
from wsi_pipeline.models.matcher.proposals import Drawn, uncovered
from wsi_pipeline.models.matcher.reference import crops_of, farthest, labels_of, reference_mpp
from wsi_pipeline.models.matcher.score import transport_score
from wsi_pipeline.models.matcher.settings import MatcherSettings
from wsi_pipeline.models.matcher.sight import thinned
from wsi_pipeline.models.roles import (
    InstanceSegmenter,
    MaskBatch,
    PairImages,
    PromptBatch,
    Prompter,
    SlideAware,
)
from wsi_pipeline.workflow import SegmentSettings

SIDE, GRID = 64, 16
PINK, BLUE, GREEN = (228, 186, 208), (60, 186, 208), (228, 60, 208)
SETTINGS = {"centre": "image", "unknown": 0, "context": "4096 um", "grid": GRID, "min_presence": 0.3}


class ColourFeatures:
    """How far the mean colours of patches are from that of tissue, which is the same everywhere."""

    grid, encoder, signature = GRID, None, "colours"

    def __init__(self) -> None:
        self.asked = 0

    def levels(self, images: np.ndarray) -> list[np.ndarray]:
        self.asked += len(images)
        cell = images.shape[1] // GRID
        cells = images.reshape(len(images), GRID, cell, GRID, cell, 3).mean(axis=(2, 4), dtype=np.float32)
        stained = np.float32(PINK) - cells.reshape(len(images), GRID * GRID, 3)
        stained[np.abs(stained) < 10] = 0
        return [np.concatenate([stained, np.full((*stained.shape[:2], 1), 20, np.float32)], axis=-1)]


class DarkSegmenter:
    """Draws what is dark within a box, or everything dark for points."""

    input_size, mask_size, uses_low_patch, n_guesses = SIDE, 256, False, 1

    def __init__(self, *kinds: str) -> None:
        self.prompt_kinds = frozenset(kinds or {"box"})
        self.asked: list[PromptBatch] = []

    def encode(self, pairs: PairImages) -> np.ndarray:
        return pairs.high.astype(np.float32).mean(axis=-1) < 185

    def decode(self, embedding, prompts, *, margin=None, guesses=False) -> MaskBatch:
        self.asked.append(prompts)
        masks = embedding[prompts.image_index].copy()
        if prompts.boxes is not None:
            for mask, box in zip(masks, prompts.boxes.round().astype(int), strict=True):
                x0, y0, x1, y1 = np.clip(box, 0, SIDE)
                inside = np.zeros_like(mask)
                inside[y0:y1, x0:x1] = True
                mask &= inside
        count = len(masks)
        return MaskBatch(np.where(masks, 8, -8).astype(np.float32), np.zeros((count, 2), np.int64), np.ones(count))


def tissue(*blots: tuple[int, int, int, tuple[int, int, int]], seed: int = 0, size: int = SIDE) -> np.ndarray:
    """(size, size, 3) uint8: discs ``x, y, radius, colour`` on pink."""
    image = np.random.default_rng(seed).normal(PINK, 3, (size, size, 3))
    y, x = np.mgrid[:size, :size] + 0.5
    for across, down, radius, colour in blots:
        image[np.hypot(x - across, y - down) <= radius] = colour
    return np.clip(image, 0, 255).astype(np.uint8)


def disc(x: float, y: float, radius: float) -> BaseGeometry:
    return shapely.Point(x, y).buffer(radius)


def annotate(path: Path, *outlines: tuple[BaseGeometry, str | None]) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(geometry)),
            "properties": {"objectType": "annotation"} | ({"classification": {"name": name}} if name else {}),
        }
        for geometry, name in outlines
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("wsi_pipeline.models.matcher.reference.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "references"


@pytest.fixture
def example(tmp_path, tools) -> dict[str, str]:
    """A slide with a blue and a green disc, both outlined."""
    slide = tools.write_tiff(tmp_path / "slide.tiff", tissue((18, 20, 9, BLUE), (46, 44, 9, GREEN)), mpp=1.0)
    annotation = annotate(tmp_path / "slide.geojson", (disc(18, 20, 9), "Blue"), (disc(46, 44, 9), None))
    return {"slide": str(slide), "annotation": str(annotation)}


def settings_for(example: dict[str, str], **changes: object) -> MatcherSettings:
    return MatcherSettings.model_validate({**SETTINGS, "examples": [example], **changes})


def matcher(example: dict[str, str], segmenter: DarkSegmenter | None = None, **changes: object) -> MatcherModel:
    settings = settings_for(example, **changes)
    return MatcherModel(settings, read_outlines(settings), ColourFeatures(), segmenter or DarkSegmenter())


def pairs_of(*images: np.ndarray) -> PairImages:
    return PairImages(np.stack(images))


def find(model: MatcherModel, *images: np.ndarray):
    return model.find(pairs_of(*images), mpp=1.0, min_score=0, max_objects=100)


TARGET = tissue((42, 20, 9, BLUE), (18, 44, 9, BLUE), (46, 48, 9, GREEN), seed=1)


def test_it_plays_its_roles(example) -> None:
    model = matcher(example)
    assert isinstance(model, InstanceSegmenter)
    assert isinstance(model, Prompter)
    assert isinstance(model, SlideAware)


def test_every_like_object_is_found_with_its_class(example) -> None:
    (groups,) = find(matcher(example), TARGET)
    found = sorted(
        (int(number), *box) for group in groups for number, box in zip(group.classes, group.boxes, strict=True)
    )
    # to half a patch, as boxes are made of patches
    expected = [(1, 9, 35, 27, 53), (1, 33, 11, 51, 29), (2, 37, 39, 55, 57)]
    np.testing.assert_allclose(found, expected, atol=2)


def test_a_tile_without_the_class_gives_nothing(example) -> None:
    empty, only_green = tissue(seed=2), tissue((30, 30, 9, GREEN), seed=3)
    nothing, green = find(matcher(example), empty, only_green)
    assert nothing == []
    assert [group.classes.tolist() for group in green] == [[2]]


def test_a_union_is_one_object_of_each_class(example) -> None:
    (groups,) = find(matcher(example, merge="union"), TARGET)
    assert [group.classes.tolist() for group in groups] == [[1], [2]]
    blue = (TARGET == BLUE).all(axis=-1)
    assert np.count_nonzero(groups[0].masks.on_patch(SIDE)[0] ^ blue) < 0.06 * np.count_nonzero(blue)


def test_an_answer_depends_on_the_tile_alone(example) -> None:
    images = [TARGET, tissue((30, 30, 9, GREEN), seed=3), tissue(*((x, 20, 5, BLUE) for x in (8, 24, 40, 56)), seed=4)]

    def answers(order: list[int]) -> dict[int, list]:
        model = matcher(example, DarkSegmenter("point"), sampling="points", subset_sizes=(2, 3), draws=3)
        together = find(model, *(images[number] for number in order))
        points = [prompt.points for prompt in model._segmenter.asked]
        drawn = {
            n: [p for p, q in zip(points, model._segmenter.asked, strict=True) if q.image_index[0] == at]
            for at, n in enumerate(order)
        }
        return {number: [found, drawn[number]] for number, found in zip(order, together, strict=True)}

    forward, backward = answers([0, 1, 2]), answers([2, 0, 1])
    for number in forward:
        np.testing.assert_equal(
            [[group.boxes, group.scores] for group in forward[number][0]],
            [[group.boxes, group.scores] for group in backward[number][0]],
        )
        np.testing.assert_equal(forward[number][1], backward[number][1])
    assert len(forward[0][1][0]) == 3  # some of many subsets were drawn


def test_detections_are_boxes_with_a_point_inside_the_like_object(example) -> None:
    settings = settings_for(example)
    model = MatcherModel(settings, read_outlines(settings), ColourFeatures(), None)
    (found,) = model.detect(pairs_of(TARGET), mpp=1.0)
    assert set(found.classes.tolist()) == {1, 2}
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    for (x, y), (x0, y0, x1, y1), number in zip(found.points, found.boxes, found.classes, strict=True):
        assert x0 <= x <= x1
        assert y0 <= y <= y1
        assert tuple(TARGET[int(y), int(x)]) == (BLUE if number == 1 else GREEN)


def test_what_the_slide_looks_like_is_subtracted(example) -> None:
    model = matcher(example, centre="slide")
    assert model.learns_slide
    seen = model.look(pairs_of(tissue(seed=5), tissue(seed=6)))
    assert seen.shape == (2, 4)
    full_of_it = np.full((SIDE, SIDE, 3), BLUE, np.uint8)

    def classes(model: MatcherModel) -> list[list[int]]:
        return [group.classes.tolist() for group in find(model, full_of_it)[0]]

    assert classes(model.knowing(seen)) == [[1]]
    # the mean of the tile is all there is on it
    assert classes(model) == classes(model.knowing(seen[:0])) != [[1]]


def test_examples_are_read_once_for_an_archive(example, cache) -> None:
    outlines = read_outlines(settings_for(example))
    first, second = ColourFeatures(), ColourFeatures()
    found = [
        find(MatcherModel(settings_for(example), outlines, features, DarkSegmenter()), TARGET)
        for features in (first, second)
    ]
    assert (first.asked, second.asked) == (2, 1)
    np.testing.assert_equal(found[0][0][0].boxes, found[1][0][0].boxes)
    (kept,) = cache.rglob("*.safetensors")
    kept.write_bytes(b"damaged")
    third = ColourFeatures()
    find(MatcherModel(settings_for(example), outlines, third, DarkSegmenter()), TARGET)
    assert third.asked == 2


def test_a_cache_that_cannot_be_written_is_no_error(example, cache) -> None:
    cache.parent.mkdir()
    cache.write_text("in the way")
    assert find(matcher(example), TARGET) != [[]]


@pytest.mark.parametrize(("mpp", "read_at"), [(0.499, 0.5), (0.2527, 0.25), (1.03, 1.0)])
def test_slides_of_nearly_one_resolution_share_examples(mpp, read_at) -> None:
    assert reference_mpp(mpp) == read_at


def test_classes_come_in_the_order_of_their_outlines(example) -> None:
    assert example_classes(settings_for(example)) == ("Blue", "Similar")
    assert matcher(example).class_names == ("Blue", "Similar")


def test_classes_are_known_without_torch(example) -> None:
    code = (
        "import sys; from pathlib import Path; from wsi_pipeline.models.matcher.facts import example_classes\n"
        "from wsi_pipeline.models.matcher.settings import MatcherSettings\n"
        f"print(example_classes(MatcherSettings.model_validate({{'examples': [{example!r}]}})), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "('Blue', 'Similar') False"


def test_files_of_the_examples_are_named_with_their_digests(example, tmp_path) -> None:
    settings = settings_for(example)
    before = example_files(settings)
    assert [one["file"] for one in before] == ["slide.tiff", "slide.geojson"]
    annotate(tmp_path / "slide.geojson", (disc(18, 20, 5), "Blue"))
    after = example_files(settings)
    assert (before[0], before[1]["sha256"]) == (after[0], before[1]["sha256"])
    assert before[1] != after[1]


def test_outlines_follow_the_origin_of_qupath(example, monkeypatch) -> None:
    real = example_reading.slide_handle

    def cropped(*asked):
        slide = real(*asked)
        slide.info = replace(slide.info, bounds=Region(4, 6, 50, 50), has_bounds=True)
        return slide

    monkeypatch.setattr(example_reading, "slide_handle", cropped)
    outline, _ = read_outlines(settings_for(example))
    assert outline.geometry.centroid.distance(shapely.Point(22, 26)) < 0.01
    outline, _ = read_outlines(settings_for(example), origin="full")
    assert outline.geometry.centroid.distance(shapely.Point(18, 20)) < 0.01


def test_without_examples_it_is_said_how_to_give_them() -> None:
    with pytest.raises(WorkflowError, match=r"nothing to look for.*--example-annotation"):
        read_outlines(MatcherSettings())


def test_a_missing_slide_is_named(example) -> None:
    with pytest.raises(SlideError, match=r"gone\.tiff: no such slide"):
        read_outlines(settings_for(example | {"slide": "gone.tiff"}))


def test_a_slide_without_a_resolution_needs_one(example, tmp_path, tools) -> None:
    slide = str(tools.write_tiff(tmp_path / "bare.tiff", tissue(), mpp=None))
    with pytest.raises(ResolutionError):
        read_outlines(settings_for(example | {"slide": slide}))
    assert len(read_outlines(settings_for(example | {"slide": slide, "mpp": 1.0}))) == 2


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        ([], "holds no prompts"),
        ([(shapely.Point(5, 5), None)], "holds no outline of an example"),
        ([(disc(500, 500, 9), None)], "lies outside the slide"),
    ],
)
def test_annotations_without_an_example_are_refused(example, tmp_path, drawn, said) -> None:
    annotate(tmp_path / "slide.geojson", *drawn)
    with pytest.raises(PromptError, match=said):
        read_outlines(settings_for(example))


def test_a_coarse_example_is_read_with_a_warning(example, caplog) -> None:
    model = matcher(example)
    model.find(pairs_of(TARGET), mpp=0.5, min_score=0, max_objects=9)
    assert "it shows less than there is to see" in caplog.text


def test_a_large_outline_is_covered_by_several_crops(tmp_path, tools) -> None:
    slide = tools.write_tiff(tmp_path / "large.tiff", tissue(size=256), mpp=1.0)
    large, small = shapely.box(10, 10, 180, 90), disc(40, 40, 9)
    annotation = annotate(tmp_path / "large.geojson", (large, None), (small, None), (disc(220, 220, 9), None))
    outlines = read_outlines(settings_for({"slide": str(slide), "annotation": str(annotation)}))
    crops = list(crops_of(outlines, SIDE, 1.0))
    shown = shapely.union_all([shapely.box(*crop.region.bounds) for crop in crops])
    assert all(shown.covers(outline.geometry) for outline in outlines)
    assert len(crops) == 3 * 2 + 1  # the small one is shown with the large one
    assert all(shapely.box(0, 0, 256, 256).covers(shapely.box(*crop.region.bounds)) for crop in crops)


def test_an_example_within_another_one_is_seen(tmp_path, example) -> None:
    annotate(tmp_path / "slide.geojson", (disc(18, 20, 4), "Core"), (disc(18, 20, 9), "Blue"))
    assert {int(n) for one in find(matcher(example), TARGET)[0] for n in one.classes} <= {1, 2}
    assert matcher(example)._examples(1.0, SIDE)[0].inside.any()


def test_an_example_of_no_size_is_refused(tmp_path, example) -> None:
    annotate(tmp_path / "slide.geojson", (disc(18, 20, 0.1), "Speck"))
    with pytest.raises(PromptError, match="no example of Speck is large enough"):
        find(matcher(example), TARGET)


def test_only_the_near_surroundings_are_known_to_be_something_else(example) -> None:
    settings = settings_for(example, context="12 um", unknown="4 um")
    outlines = read_outlines(settings)[:1]
    (crop,) = crops_of(outlines, SIDE, 1.0)
    labels = labels_of(crop, outlines, ("Blue",), GRID, settings).reshape(GRID, GRID)
    row = labels[5]  # y = 20 px; the disc reaches from 9 to 27 px
    assert row[3:6].tolist() == [1, 1, 1]
    assert row[7] == -1  # within 4 µm
    assert row[8] == 0  # within 12 µm
    assert (row[11:] == -1).all()


def test_the_reverse_check_removes_distractors() -> None:
    outcomes = [inject(seed) for seed in range(20)]
    assert all(one.checked >= 0.8 for one in outcomes)
    assert all(one.distractors[0] > 10 and one.distractors[1] == 0 for one in outcomes)
    assert all(one.recall >= 0.98 for one in outcomes)
    assert np.mean([one.checked - one.forward for one in outcomes]) > 0.2


def test_many_patches_outside_do_not_win_by_their_number() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(1010, 32))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    inside = np.arange(1010) < 10
    target = random.normal(size=(200, 32))
    similarity = features @ (target / np.linalg.norm(target, axis=1, keepdims=True)).T
    few = likeness(similarity, inside, ~inside)
    assert abs(few.mean()) < abs((similarity[inside].max(axis=0) - similarity[~inside].max(axis=0)).mean()) / 1.3


def test_standing_in_for_many_costs_little_of_the_transport() -> None:
    random = np.random.default_rng(1)
    features = unit([random.normal(size=(1, 300, 8)).astype(np.float32)])[0]
    target = features[:40]
    rows, weights = thinned(features, np.arange(300), 100)
    assert len(rows) == 100
    assert weights.sum() == pytest.approx(1)
    every = np.ones((1, 40), bool)
    exact, less = (
        transport_score(features @ target.T, every),
        transport_score(features[rows] @ target.T, every, weights),
    )
    assert abs(exact - less) < 0.05
    assert len(set(farthest(features, 50).tolist())) == 50


def test_what_is_left_out_before_transport_is_known_would_not_be_chosen() -> None:
    random = np.random.default_rng(2)
    metrics = Metrics(*random.uniform(0, 1, (3, 30)))
    settings = MatcherSettings(min_coverage=0.4, min_purity=0.5, selection="share", top=30, min_relative_score=0)
    rows = survivors(metrics.coverage, metrics.purity, settings)
    assert len(rows) < 30
    np.testing.assert_array_equal(rows[select(metrics.take(rows), settings)], select(metrics, settings))


def test_masks_that_add_nothing_like_the_examples_are_left_out() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, :3], masks[2, 3] = True, True, True
    field = np.full((4, 4), -1.0)
    field[:2] = field[3] = 1
    rows = np.arange(3)
    assert adding(masks, rows, field).tolist() == [0, 2]
    assert apart(masks, rows, 0.5).tolist() == [0, 2]


def test_boxes_are_put_around_components_that_hold_a_match() -> None:
    similarity = np.zeros((8, 8))
    similarity[1:4, 1:6], similarity[2, 4], similarity[6, 6] = 0.4, 0.9, 0.9
    matched = np.zeros((8, 8), bool)
    matched[2, 4] = True
    assert boxes_from_components(similarity, matched, [0.3, 0.5]).tolist() == [[1, 1, 6, 4], [4, 2, 5, 3]]


def test_few_points_are_their_own_clusters() -> None:
    points = np.arange(40.0).reshape(20, 2)
    random = np.random.default_rng(0)
    assert cluster(points[:5], 8, random) is not None
    np.testing.assert_array_equal(cluster(points[:5], 8, random), points[:5])
    assert cluster(points, 8, random).shape == (8, 2)


def test_features_are_of_unit_length_level_by_level() -> None:
    random = np.random.default_rng(3)
    levels = [random.normal(2, 1, (2, 9, width)).astype(np.float32) for width in (4, 6)]
    found = unit(levels, mean_of(levels))
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[..., :4], axis=-1), np.sqrt(0.5), rtol=1e-5)


def test_masks_of_which_likeness_leaves_nothing_are_dropped() -> None:
    drawn = Drawn(np.array([[[3.0, -9.0]], [[1.0, -2.0]]], np.float32), np.array([0.9, 0.8]), np.array([0.5, 0.4]))
    assert drawn.with_evidence(np.array([[-2.0, 9.0]])).iou.tolist() == [0.9]


def test_what_is_alike_and_was_not_drawn_is_an_object_if_it_is_alike_enough_and_large_enough() -> None:
    field = np.full((8, 8), -1.0)
    field[:3, :3], field[5:, :3], field[:3, 5:], field[7, 7] = 1.0, 0.6, 0.4, 1.0
    masks = np.zeros((1, 8, 8), bool)
    masks[0, :3, :3] = True
    left = uncovered(masks, field, 4)
    assert (left > 0).sum(axis=(1, 2)).tolist() == [9]
    assert (left[0, 5:, :3] > 0).all()
    drawn = Drawn(np.where(masks, 5, -5).astype(np.float32), np.array([0.9]), np.array([0.5])).joined(left)
    assert drawn.scores.tolist() == [0.5, 0.5]
    assert drawn.united().masks.sum() == 18
    assert len(uncovered(masks, -np.abs(field), 4)) == 0


PUBLISHED = {
    "default": {
        "likeness_check": False,
        "likeness_logit": 0,
        "likeness_objects": False,
        "min_presence": 0,
        "merge": "union",
        "selection": "share",
    },
    "coco": {
        "sampling": "points",
        "subset_sizes": (1, 6),
        "draws": 64,
        "dense_grid": 64,
        "guesses": True,
        "min_predicted_iou": 0.85,
        "min_stability": 0.9,
        "box_nms": 0.65,
        "min_purity": 0.02,
        "selection": "distance",
        "max_distance": 0.33,
        "max_relative_distance": 0.1,
        "top": 9,
    },
    "parts": {"sampling": "points", "subset_sizes": (3, 6), "draws": 8, "box": True, "min_coverage": 0.3, "top": 5},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_ask_with_points(example, name) -> None:
    segmenter = DarkSegmenter("point", "box")
    published = PUBLISHED["default"] | PUBLISHED[name] | ({"dense_grid": 4, "draws": 8} if name == "coco" else {})
    (groups,) = find(matcher(example, segmenter, **published), TARGET)
    assert [group.classes.tolist() for group in groups] == [[1], [2]]
    sizes = {prompts.points.shape[1] for prompts in segmenter.asked}
    least, most = MatcherSettings.model_validate(published).subset_sizes
    assert sizes >= set(range(least, most + 1))
    assert all((prompts.boxes is not None) == (name == "parts") for prompts in segmenter.asked)


def test_settings_are_hashable() -> None:
    assert len({MatcherSettings.model_validate(one) for one in (*PUBLISHED.values(), PUBLISHED["default"])}) == 3


def test_official_checkpoints_are_read_by_timm_models(tmp_path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True, init_values=1.0)
    state = {f"module.backbone.{key}": value.clone() for key, value in model.state_dict().items()}
    state["module.backbone.mask_token"] = torch.zeros(1, 64)
    path = tmp_path / "vit.safetensors"
    save_file(state, path)
    encoder = load_timm("test_vit", path, 4, dtype=torch.float32)
    (level,) = encoder.levels(TARGET[None])
    assert level.shape == (1, 16, model.num_features)
    pixels = torch.randn(1, 3, 64, 64)
    expected = model.eval().forward_intermediates(pixels, indices=1, norm=False, intermediates_only=True)[-1]
    torch.testing.assert_close(encoder.tokens(pixels), expected)
    with pytest.raises(WeightsError):
        load_timm("vit_tiny_patch16_224", path, 4, dtype=torch.float32)
    for name in ("no_such_vit", "resnet18"):
        with pytest.raises(WorkflowError):
            load_timm(name, path, 4, dtype=torch.float32)


def test_an_encoder_of_timm_needs_its_checkpoint(example) -> None:
    asked = settings_for(example, encoder="dinov2-s")
    with pytest.raises(WorkflowError, match=r"matcher\.encoder: the encoder dinov2-s has no weights"):
        build_matcher(SegmentSettings(model="matcher", matcher=asked))


@pytest.mark.slow
def test_the_shared_encoder_sees_a_patch_once(tmp_path, tools) -> None:
    image = tools.stained(256, 256, 10)
    slide = tools.write_tiff(tmp_path / "real.tiff", image, mpp=1.0)
    annotation = annotate(tmp_path / "real.geojson", (disc(128, 128, 30), "Gland"))
    example = {"slide": str(slide), "annotation": str(annotation)}
    section = SegmentSettings(model="matcher", matcher=settings_for(example, grid=32, min_presence=0))
    assert set(segment_files(section)) == {"sam", "features"}
    model = build_matcher(section)
    before = model.encoder.computed
    model.find(pairs_of(image), mpp=1.0, min_score=0, max_objects=5)
    assert model.encoder.computed - before <= 2  # the crop of the example, and the patch
    assert model.input_size == 256
