"""What maps of objects should be: which px are of a class, and how far each is from its object's outline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor

from wsi_pipeline.models.domain_decoder.decoder import MAP_SIZE


class Target(NamedTuple):
    """What is known of B patches.

    Attributes:
        masks: (B, C, 256, 256) float32, 1 inside objects of the class.
        distances: (B, C, 256, 256) float32 in 0..1, see ``DomainMaps``.
        known: (B, C, 256, 256) bool; nowhere for a class that nobody annotated on a patch.
    """

    masks: Tensor
    distances: Tensor
    known: Tensor


def maps_of(
    labels: np.ndarray, known: np.ndarray, class_of: np.ndarray, annotated: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The truth of a patch for C classes; a px of the maps is that in the middle of a cell of the patch.

    Args:
        labels: (S, S) int32, 0 for background, else the number of an object.
        known: (S, S) bool.
        class_of: (N + 1,) int64 class of background and of each object, from 1 on; 0 for none of them.
        annotated: (C,) bool: classes of which all objects are annotated.

    Returns:
        As in ``Target`` without its first axis.
    """
    step = labels.shape[0] // MAP_SIZE
    cells = slice(step // 2, None, step)
    labels, known = labels[cells, cells], known[cells, cells]
    masks = class_of[labels] == np.arange(1, len(annotated) + 1)[:, None, None]
    distances = np.where(masks, depths(labels, known), 0)
    return masks.astype(np.float32), distances.astype(np.float32), known & annotated[:, None, None]


def depths(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How deep inside its object each px lies, as a share of the object's deepest.

    Args:
        labels: (H, W) int32, 0 for background.
        known: (H, W) bool; where nothing is known, and beyond the image, an object is taken to go on.

    Returns:
        (H, W) float64 in 0..1, 0 outside of objects.
    """
    result = np.zeros(labels.shape)
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        around = tuple(slice(max(0, one.start - 1), one.stop + 1) for one in place)
        mine = labels[around] == number
        depth = ndimage.distance_transform_edt(mine | ~known[around])
        result[around][mine] = depth[mine] / depth[mine].max()
    return result
