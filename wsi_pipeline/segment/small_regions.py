"""Specks and pinholes of a mask removed, as segment-anything's mask generator does with ``min_mask_region_area``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wsi_pipeline.segment import components
from wsi_pipeline.segment.candidates import Candidate
from wsi_pipeline.segment.objects import quantise_logits

_EIGHT = np.ones((3, 3), bool)
"""Parts that touch at a corner are one."""


def without_small_regions(candidate: Candidate, area: float, limits: np.ndarray) -> tuple[Candidate, bool]:
    """A candidate without holes and parts of less than ``area`` px, and whether it had any.

    When all parts are small the largest stays. What surrounds a mask goes on beyond its box and is no hole, except
    where the image itself ends.

    Args:
        candidate: with its mask.
        area: px.
        limits: (4,) ``x0, y0, x1, y1`` of the patch that counts, patch px.
    """
    filled, had_holes = _filled(candidate.mask, area, candidate.box, limits)
    mask, had_parts = _without_parts(filled, area)
    if not had_holes and not had_parts:
        return candidate, False
    x0, y0, x1, y1 = (int(v) for v in components.tight_boxes(mask[None])[0])
    return replace(
        candidate,
        box=np.array([x0, y0, x1, y1]) + np.tile(candidate.box[:2], 2),
        mask=mask[y0:y1, x0:x1].copy(),
        logits=_agreeing(candidate, mask),
    ), True


def _filled(mask: np.ndarray, area: float, box: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, bool]:
    from scipy import ndimage

    x0, y0, x1, y1 = (int(v) for v in np.abs(limits - box) > 0)
    beyond = ((y0, y1), (x0, x1))
    labels, count = ndimage.label(np.pad(~mask, beyond, constant_values=True), _EIGHT)
    small = np.bincount(labels.ravel(), minlength=count + 1) < area
    small[0] = False
    small[labels[np.pad(np.zeros_like(mask), beyond, constant_values=True)]] = False
    holes = small[labels][y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]]
    return mask | holes, bool(small.any())


def _without_parts(mask: np.ndarray, area: float) -> tuple[np.ndarray, bool]:
    from scipy import ndimage

    labels, count = ndimage.label(mask, _EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    stays = sizes >= area
    some_small = not stays[1:].all()
    if not stays.any():
        stays[sizes.argmax()] = True
    return stays[labels] & mask, some_small


def _agreeing(candidate: Candidate, mask: np.ndarray) -> np.ndarray:
    """The candidate's int8 logits, above 0 exactly where ``mask`` (of the candidate's box) is."""
    x, y = (int(v) for v in candidate.box[:2] - np.array(candidate.logits_xy))
    inside = np.zeros(candidate.logits.shape, bool)
    inside[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    outside = np.where(candidate.logits > 0, quantise_logits(np.array(components.BACKGROUND)), candidate.logits)
    return np.where(inside, np.maximum(candidate.logits, np.int8(1)), outside)
