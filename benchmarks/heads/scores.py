"""How good masks are, object by object."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from benchmarks.heads.prompts import Way, prompts_on
from benchmarks.heads.subjects import Subject
from benchmarks.heads.tiles import AskedPatch
from wsi_pipeline.training.boundary import EVALUATION_WIDTH, boundary, boundary_iou, mask_iou

NARROW_WIDTH = 0.005
"""Of the boundary as a share of the patch diagonal; at the usual width a nucleus is nothing but boundary."""
METRICS = ("dice", "iou", "boundary_iou", "narrow_boundary_iou")

Scores = dict[str, np.ndarray]
"""(N, len(METRICS)) float64 of all objects, patch by patch, by the name of the way they were asked about."""


def score(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N, len(METRICS)) float64 of masks (N, S, S) bool, pair by pair."""
    first, second = torch.from_numpy(predicted), torch.from_numpy(truth)
    iou = mask_iou(first, second)
    boundaries = [boundary_iou(first, second, width) for width in (EVALUATION_WIDTH, NARROW_WIDTH)]
    return torch.stack([2 * iou / (1 + iou), iou, *boundaries], dim=1).double().numpy()


def nothing_but_boundary(truth: np.ndarray) -> np.ndarray:
    """(N,) bool: masks (N, S, S) bool whose usual boundary is all of them, so that boundary IoU is IoU."""
    masks = torch.from_numpy(truth)
    found: np.ndarray = (boundary(masks, EVALUATION_WIDTH) == masks).all(-1).all(-1).numpy()
    return found


def measure(name: str, subject: Subject, patches: Sequence[AskedPatch], ways: Iterable[Way]) -> Scores:
    """Ask about all objects in these ways; px beyond the tile do not count."""
    rows: dict[Way, list[np.ndarray]] = {way: [] for way in ways}
    for number, patch in enumerate(patches, start=1):
        print(f"\r{name}: patch {number} of {len(patches)}", end="", file=sys.stderr, flush=True)
        ask = subject.about(patch)
        for way, found in rows.items():
            found.append(score(ask(prompts_on(patch, way)) & patch.known, patch.truth))
    print(file=sys.stderr)
    return {way.name: np.concatenate(found) for way, found in rows.items()}
