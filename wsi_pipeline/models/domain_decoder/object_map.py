"""Objects seen on a map of a patch, and what a prompter says of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from wsi_pipeline.models.domain_decoder.decoder import DomainMaps
from wsi_pipeline.models.domain_decoder.splitting import SplitSettings, split_objects
from wsi_pipeline.models.roles import Detections


class ObjectMap(NamedTuple):
    """The objects of one class on one high patch.

    Attributes:
        labels: (M, M) int32, 1 … N without gaps.
        logits: (M, M) float32 of the class.
        probability: (M, M) float32, the same in 0..1.
    """

    labels: np.ndarray
    logits: np.ndarray
    probability: np.ndarray


def split_maps(maps: DomainMaps, number: int, settings: SplitSettings) -> list[ObjectMap]:
    """The objects of class ``number``, from 0 on, on each of B patches."""
    logits, distances = (part[:, number].cpu() for part in maps)
    arrays = (part.numpy() for part in (logits, logits.sigmoid(), distances))
    return [
        ObjectMap(split_objects(probability, distance, settings), logit, probability)
        for logit, probability, distance in zip(*arrays, strict=True)
    ]


def detections_of(seen: ObjectMap, px: float) -> Detections:
    """Box, inner point and mean probability of every object, in the order of the labels.

    Args:
        seen: N objects.
        px: patch px per px of the map.
    """
    places = ndimage.find_objects(seen.labels)
    boxes = np.array([(c.start, r.start, c.stop, r.stop) for r, c in places], np.float32).reshape(-1, 4)
    numbers = np.arange(1, len(places) + 1)
    scores = np.asarray(ndimage.mean(seen.probability, seen.labels, numbers), np.float32).reshape(-1)
    points = np.array(
        [_deepest(seen.labels[place] == number, place) for number, place in zip(numbers, places, strict=True)],
        np.float32,
    ).reshape(-1, 2)
    return Detections(boxes * np.float32(px), np.clip(scores, 0, 1), points * np.float32(px))


def _deepest(mask: np.ndarray, place: tuple[slice, slice]) -> tuple[float, float]:
    """(x, y) of the middle of the px that is farthest from the outline."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return float(place[1].start + column + 0.5), float(place[0].start + row + 0.5)
