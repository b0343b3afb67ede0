"""The domain decoder as a model of its own: every object once, by class and window, with its own px alone inside."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wsi_pipeline.models.domain_decoder import segmenter as domain_segmenter
from wsi_pipeline.models.domain_decoder.decoder import DecoderFacts, DomainMaps
from wsi_pipeline.models.domain_decoder.model import DomainModel
from wsi_pipeline.models.domain_decoder.segmenter import DomainSegmenter
from wsi_pipeline.models.roles import Instances, InstanceSegmenter, PairImages
from wsi_pipeline.training.domain_target import depths

IMAGES = PairImages(np.zeros((1, 256, 256, 3), np.uint8))


def labels_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((256, 256), np.int32)
    for number, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        labels[y0:y1, x0:x1] = number
    return labels


NUCLEI = labels_of((10, 10, 24, 24), (24, 10, 38, 24), (200, 200, 212, 220))
GLANDS = labels_of((60, 40, 180, 160))


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> DomainSegmenter:
    """One whose decoder sees ``NUCLEI`` (touching ones among them) and ``GLANDS``, the glands less surely."""
    layers = [NUCLEI, GLANDS]
    masks = np.stack([np.where(layer > 0, sure, -4.0) for layer, sure in zip(layers, (3.0, 1.0), strict=True)])
    far = np.stack([depths(layer, np.ones(layer.shape, bool)) for layer in layers])
    seen = DomainMaps(*(torch.from_numpy(part.astype(np.float32))[None] for part in (masks, far)))

    class Known(DomainModel):
        def __init__(self, *given: Any, **options: Any) -> None:
            self.facts = DecoderFacts(classes=("nucleus", "gland"), backbone="lite-medsam", early_channels=160)
            self.size, self.px = 256, 1.0
            self.encoder = SimpleNamespace()

        def maps(self, pairs: PairImages) -> DomainMaps:
            return seen

    monkeypatch.setattr(domain_segmenter, "DomainModel", Known)
    return DomainSegmenter(None)


def drawn(group: Instances, index: int) -> np.ndarray:
    """(256, 256) bool mask of an object."""
    canvas = np.zeros((256, 256), bool)
    (x, y), logits = group.masks.origin[index], group.masks.logits[index]
    canvas[y : y + logits.shape[0], x : x + logits.shape[1]] = logits > 0
    return canvas


def test_it_finds_objects_by_itself(segmenter: DomainSegmenter) -> None:
    assert isinstance(segmenter, InstanceSegmenter)
    assert segmenter.class_names == ("nucleus", "gland")


def test_every_object_is_drawn_once_with_its_class(segmenter: DomainSegmenter) -> None:
    (groups,) = segmenter.find(IMAGES, mpp=0.5, min_score=0.5, max_objects=100)
    masks = {
        (int(group.classes[index]), tuple(group.boxes[index].astype(int).tolist())): drawn(group, index)
        for group in groups
        for index in range(len(group))
    }
    assert len(masks) == 4
    for number, layer in ((1, NUCLEI), (2, GLANDS)):
        for label in range(1, layer.max() + 1):
            rows, columns = np.nonzero(layer == label)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (masks[number, tuple(map(int, box))] == (layer == label)).mean() > 0.999


def test_windows_of_a_group_are_of_one_side_and_small_for_small_objects(segmenter: DomainSegmenter) -> None:
    (groups,) = segmenter.find(IMAGES, mpp=0.5, min_score=0.5, max_objects=100)
    sides = {int(group.classes[0]): group.masks.logits.shape[-1] for group in groups}
    assert sides[1] < 64 < sides[2]


def test_unsure_objects_are_left_out_and_the_surest_kept(segmenter: DomainSegmenter) -> None:
    (sure,) = segmenter.find(IMAGES, mpp=0.5, min_score=0.9, max_objects=100)
    assert {number for group in sure for number in group.classes.tolist()} == {1}
    (few,) = segmenter.find(IMAGES, mpp=0.5, min_score=0.5, max_objects=2)
    assert sum(map(len, few)) == 2
    assert all((group.classes == 1).all() for group in few)
