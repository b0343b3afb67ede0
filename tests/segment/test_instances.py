"""Dense mode with a model that finds the objects of a tile by itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import ndimage

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.models.roles import Instances, InstanceSegmenter, MaskBatch
from wsi_pipeline.segment import instances
from wsi_pipeline.segment.dense import segment_batch
from wsi_pipeline.segment.recognise import RecogniseStage
from wsi_pipeline.segment.refine import RefineStage
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.workflow import RecogniseSettings, RefineSettings, parse_workflow

ELLIPSES = [(30, 40, 9, 6), (62, 33, 7, 11), (96, 62, 8, 8), (150, 120, 10, 7), (100, 120, 14, 5), (120, 20, 4, 9)]
GRID = PixelGrid(200, 150, Affine2D(), 0.5)
WIDE, TALL = 1, 2


@dataclass
class DarkFinder:
    """Finds dark components, in windows of 32 px or of the whole patch, and tells wide ones from tall ones."""

    input_size: int = 64
    uses_low_patch: bool = False
    class_names: tuple[str, ...] = ("Wide", "Tall")
    score: float = 0.9
    asked: list[int] = field(default_factory=list)
    fits: int = 99

    def find(self, pairs, *, mpp, min_score, max_objects):
        assert mpp == 0.5
        if len(pairs) > self.fits:
            raise MemoryError
        self.asked.append(len(pairs))
        return [list(self._groups(image[..., 0] < 128, max_objects)) for image in pairs.high]

    def _groups(self, dark, most):
        labels, _ = ndimage.label(dark)
        found = ndimage.find_objects(labels)[:most]
        boxes = np.array([(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in found], np.float32).reshape(-1, 4)
        sides = np.where((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) > 20, 64, 32)
        for side in np.unique(sides):
            mine = np.flatnonzero(sides == side)
            origin = np.clip(np.floor(boxes[mine, :2]) - 4, 0, 64 - side).astype(np.int64)
            logits = np.stack([np.where(dark[y : y + side, x : x + side], 6, -6) for x, y in origin])
            wide = (boxes[mine, 2] - boxes[mine, 0]) > (boxes[mine, 3] - boxes[mine, 1])
            scores = np.full(len(mine), self.score, np.float32)
            masks = MaskBatch(logits.astype(np.float32), origin, scores)
            yield Instances(masks, boxes[mine], scores, np.where(wide, WIDE, TALL))


def workflow(class_name=None, max_objects=300, **segment):
    prompts = {"source": "segment-model", "class": class_name, "max_objects": max_objects}
    segment = {"model": "fake", **segment}
    return parse_workflow({"name": "test", "mpp": 0.5, "prompts": prompts, "segment": segment})


def plan_of(block=2):
    return TilePlan(GRID, 64, 32, np.ones(TilePlan.shape(GRID, 64, 32), bool), block)


def run(slide, flow, model, refine=None, plan=None):
    plan = plan or plan_of()
    return [segment_batch(slide, plan, n, model, None, flow, 1, refine=refine) for n in range(plan.n_batches)]


@pytest.fixture
def slide(fakes):
    return fakes.slide(ELLIPSES, 200, 150)


def test_objects_come_back_whole_with_the_models_classes_and_scores(slide, fakes):
    model = DarkFinder()
    assert isinstance(model, InstanceSegmenter)
    found = set()
    for objects in run(slide, workflow(), model):
        for index in np.flatnonzero(objects.seam == 0):
            mask = fakes.mask(objects, index, GRID)
            (which,) = [
                i for i, one in enumerate(ELLIPSES) if np.array_equal(mask, fakes.slide([one], 200, 150).on(GRID))
            ]
            found.add(which)
            assert objects.class_id[index] == (WIDE if ELLIPSES[which][2] > ELLIPSES[which][3] else TALL)
        assert (objects.detection == np.float32(0.9)).all()
        assert (objects.logits.max(axis=(1, 2)) <= 96).all()
    assert found == set(range(len(ELLIPSES)))


def test_a_class_of_the_workflow_replaces_those_of_the_model(slide):
    for objects in run(slide, workflow("Nucleus"), DarkFinder()):
        assert (objects.class_id == 1).all()


def test_unsure_objects_are_dropped_by_the_segment_sections_threshold(slide):
    assert not any(map(len, run(slide, workflow(min_iou=0.95), DarkFinder())))


def test_the_most_objects_of_a_tile_are_a_setting(slide):
    few, all_of_them = (sum(map(len, run(slide, workflow(max_objects=n), DarkFinder()))) for n in (1, 300))
    assert 0 < few < all_of_them


def test_blank_tiles_are_not_looked_at_and_few_others_at_once(fakes):
    model = DarkFinder()
    run(fakes.slide([(40, 40, 9, 9)], 200, 150), workflow(), model, plan=plan_of(block=8))
    assert 0 < sum(model.asked) < 10
    assert max(model.asked) <= instances.TILES_AT_ONCE


def test_tiles_that_do_not_fit_in_memory_together_are_looked_at_one_by_one(slide):
    together, apart = (run(slide, workflow(), DarkFinder(fits=fits)) for fits in (99, 1))
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one.bits, other.bits)
        np.testing.assert_array_equal(one.class_id, other.class_id)


def test_refined_objects_keep_class_and_score(slide, fakes):
    refiner = fakes.refiner(uses_low_patch=False)
    stage = RefineStage(refiner, RefineSettings(model="fake"))
    for coarse, fine in zip(
        run(slide, workflow(), DarkFinder()), run(slide, workflow(), DarkFinder(), stage), strict=True
    ):
        np.testing.assert_array_equal(coarse.class_id, fine.class_id)
        np.testing.assert_array_equal(coarse.detection, fine.detection)
        assert fine.refined.all()
    assert refiner.asked


class Sceptic:
    """Says of everything that it is probably tall; remembers how many tiles it saw at a time."""

    input_size = None
    uses_low_patch = False
    class_names = ("Tall", "Round")

    def __init__(self):
        self.seen = []

    def encode(self, pairs):
        self.seen.append(len(pairs))

    def recognise(self, embedding, regions):
        return np.tile(np.array([0.6, 0.4], np.float32), (len(regions), 1))


def test_a_recogniser_has_the_last_word_on_classes(slide, monkeypatch):
    monkeypatch.setattr(instances, "TILES_AT_ONCE", 2)
    model, sceptic = DarkFinder(), Sceptic()
    settings = RecogniseSettings(classes=["Tall", "Round"])
    stage = RecogniseStage.of(sceptic, settings, (None, "Wide", "Tall", "Round"))
    plan = plan_of()
    found = [segment_batch(slide, plan, n, model, None, workflow(), 1, recognise=stage) for n in range(plan.n_batches)]
    assert {int(value) for batch in found for value in batch.class_id} == {TALL}
    assert max(sceptic.seen) <= max(model.asked) == 2  # as long as what the finder saw is remembered
