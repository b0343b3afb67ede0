"""SAPNet at work: objects of patches without clicks, and the mask of a click."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import PromptError
from wsi_pipeline.models.roles import Instances, MaskBatch, PairImages, PromptBatch
from wsi_pipeline.models.sapnet.build import build_network
from wsi_pipeline.models.sapnet.file import SapNetFacts
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.proposals import MaskProposals
from wsi_pipeline.models.sapnet.segmenter import SapNetSegmenter
from wsi_pipeline.models.sapnet.selector import SapNetSelector
from wsi_pipeline.models.sapnet.settings import SapNetSettings, SelectorSettings, SoloSettings

SIZE = 256
SETTINGS = SapNetSettings(
    classes=("a", "b"),
    width=32,
    selector=SelectorSettings(hidden=16),
    solo=SoloSettings(channels=32, stacked=1, kernel=32, mask_channels=32, min_score=0.0),
)
EASY = {"mpp": 0.3, "min_score": 0.0, "max_objects": 6}
"""A network that learned nothing is sure of nothing."""
POINTS = np.array([[60, 70], [150, 90], [200, 180]], np.float32)


class Boxes:
    """A segmenter whose mask is the box it is asked with, whatever it shows."""

    input_size, mask_size, uses_low_patch, n_guesses = SIZE, 64, False, 1
    prompt_kinds = frozenset({"box"})

    def encode(self, pairs: PairImages) -> None:
        return None

    def decode(self, embedding: None, prompts: PromptBatch, **_: Any) -> MaskBatch:
        assert prompts.boxes is not None
        px = np.arange(SIZE) + 0.5
        x0, y0, x1, y1 = (edge[:, None] for edge in prompts.boxes.T)
        inside = ((px > y0) & (px < y1))[:, :, None] & ((px > x0) & (px < x1))[:, None, :]
        logits = np.where(inside, np.float32(4), np.float32(-4))
        return MaskBatch(logits, np.zeros((len(logits), 2), np.int64), np.full(len(logits), 0.9, np.float32))


@pytest.fixture(scope="module")
def network(small_sam: Callable[[], Any]) -> SapNet:
    torch.manual_seed(0)
    return build_network(small_sam(), SapNetFacts(backbone="lite-medsam", settings=SETTINGS)).eval()


@pytest.fixture(scope="module")
def segmenter(network: SapNet, small_sam: Callable[[], Any]) -> SapNetSegmenter:
    return SapNetSegmenter(network, small_sam())


@pytest.fixture(scope="module")
def selector(network: SapNet, small_sam: Callable[[], Any]) -> SapNetSelector:
    return SapNetSelector(network, small_sam(), MaskProposals(Boxes(), (16, 40), low_patch=False))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (2, SIZE, SIZE, 3), np.uint8)


def clicks(
    points: np.ndarray = POINTS, classes: list[str] | None = None, image_index: list[int] | None = None
) -> PromptBatch:
    return PromptBatch(
        np.array(image_index or [0] * len(points), np.int64),
        points=points[:, None],
        point_labels=np.ones((len(points), 1), np.int64),
        classes=None if classes is None else np.array(classes, object),
    )


def told(found: list[Instances]) -> list[Any]:
    """All that is known of a patch's objects, in no order."""
    rows = [
        (*box, score, label, *mask.sum(axis=0))
        for group in found
        for box, score, label, mask in zip(
            group.boxes.round(3).tolist(),
            group.scores.round(5).tolist(),
            group.classes.tolist(),
            group.masks.on_patch(SIZE),
            strict=True,
        )
    ]
    return sorted(rows)


def test_objects_of_each_patch_have_a_mask_a_box_a_score_and_a_class(
    segmenter: SapNetSegmenter, images: np.ndarray
) -> None:
    found = segmenter.find(PairImages(images), **EASY)
    assert segmenter.class_names == ("a", "b")
    assert len(found) == len(images)
    for groups in found:
        assert 0 < sum(map(len, groups)) <= EASY["max_objects"]
        for group in groups:
            assert group.boxes.shape == (len(group), 4)
            assert set(group.classes.tolist()) <= {1, 2}
            assert ((group.scores >= 0) & (group.scores <= 1)).all()
            assert (group.boxes[:, :2] < group.boxes[:, 2:]).all()
            side = group.masks.logits.shape[1]
            assert group.masks.logits.shape == (len(group), side, side)
            assert ((group.masks.origin >= 0) & (group.masks.origin + side <= SIZE)).all()


def test_nothing_is_found_where_nothing_is_sure_enough(segmenter: SapNetSegmenter, images: np.ndarray) -> None:
    assert segmenter.find(PairImages(images), **EASY | {"min_score": 0.999}) == [[], []]


def test_a_patch_shows_the_same_objects_whatever_is_beside_it(segmenter: SapNetSegmenter, images: np.ndarray) -> None:
    together = segmenter.find(PairImages(images), **EASY)
    turned = segmenter.find(PairImages(images[::-1].copy()), **EASY)
    (alone,) = segmenter.find(PairImages(images[1:]), **EASY)
    assert told(together[1]) == told(turned[0]) == told(alone)
    assert told(together[0]) != told(together[1])


def test_each_click_gets_one_of_its_proposals(selector: SapNetSelector, images: np.ndarray) -> None:
    embedding = selector.encode(PairImages(images))
    answer = selector.decode(embedding, clicks(classes=["a", "b", "a"], image_index=[0, 1, 1]))
    assert answer.logits.shape == (3, SIZE, SIZE)
    assert answer.iou.shape == (3,)
    assert ((answer.iou > 0) & (answer.iou < 1)).all()
    masks = answer.logits > 0
    assert set(masks.sum(axis=(1, 2)).tolist()) <= {16**2, 40**2}
    columns, rows = POINTS.astype(int).T
    assert masks[np.arange(3), rows, columns].all()


def test_clicks_are_answered_the_same_in_any_order(selector: SapNetSelector, images: np.ndarray) -> None:
    embedding, order, names = selector.encode(PairImages(images)), [2, 0, 1], ["a", "b", "a"]
    answer = selector.decode(embedding, clicks(classes=names))
    other = selector.decode(embedding, clicks(POINTS[order], [names[number] for number in order]))
    np.testing.assert_array_equal(other.logits, answer.logits[order])
    np.testing.assert_allclose(other.iou, answer.iou[order], rtol=1e-5)


def test_a_click_without_a_class_is_of_the_likeliest(selector: SapNetSelector, images: np.ndarray) -> None:
    embedding = selector.encode(PairImages(images))
    sure = [selector.decode(embedding, clicks(POINTS[:1], [name])).iou for name in ("a", "b")]
    assert selector.decode(embedding, clicks(POINTS[:1])).iou == max(sure)
    assert selector.decode(embedding, clicks(POINTS[:1], [""])).iou == max(sure)


def test_no_clicks_are_no_masks(selector: SapNetSelector, images: np.ndarray) -> None:
    answer = selector.decode(selector.encode(PairImages(images)), clicks(POINTS[:0]))
    assert answer.logits.shape == (0, SIZE, SIZE)


def test_unknown_classes_and_other_prompts_are_refused(selector: SapNetSelector, images: np.ndarray) -> None:
    embedding = selector.encode(PairImages(images))
    with pytest.raises(PromptError, match=r"knows no class Tumor\. Give these points one of its classes \(a, b\)"):
        selector.decode(embedding, clicks(classes=["a", "Tumor", "b"]))
    with pytest.raises(PromptError, match="takes points alone"):
        selector.decode(embedding, PromptBatch(np.zeros(1, np.int64), boxes=np.array([[0, 0, 9, 9]], np.float32)))
