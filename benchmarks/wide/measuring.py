"""How good masks are on the validation tiles, and how long encoders take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.heads.prompts import TIGHT, prompts_on
from benchmarks.heads.subjects import Subject
from benchmarks.heads.summary import Objects
from benchmarks.heads.tiles import AnnotatedTile, patches_of
from benchmarks.segmenting import seconds
from wsi_pipeline.models.segmenter import BatchedSegmenter
from wsi_pipeline.training.boundary import mask_iou

REPEATS = 5


class Questions:
    """N annotated objects with tight boxes around them, in patches of one size; the same order for all sizes.

    Args:
        tiles: with objects.
        size: of the patches, px.
        limit: most objects of a tile; None for all.

    Attributes:
        objects: what they are.
    """

    def __init__(self, tiles: Sequence[AnnotatedTile], size: int, limit: int | None = None) -> None:
        self._patches = [patch for tile in tiles for patch in patches_of(tile, size, limit)]
        names = [(patch.tile.number, label) for patch in self._patches for label in patch.labels.tolist()]
        self._order = sorted(range(len(names)), key=names.__getitem__)
        found = Objects.of(self._patches)
        self.objects = Objects(*(part[self._order] for part in (found.kinds, found.families, found.groups)))

    def dice(self, name: str, subject: Subject) -> np.ndarray:
        """(N,) float64 Dice of a subject's answers; px beyond the tile do not count."""
        found = []
        for number, patch in enumerate(self._patches, start=1):
            print(f"\r{name}: patch {number} of {len(self._patches)}", end="", file=sys.stderr, flush=True)
            answers = subject.about(patch)(prompts_on(patch, TIGHT)) & patch.known
            iou = mask_iou(torch.from_numpy(answers), torch.from_numpy(patch.truth)).double().numpy()
            found.append(2 * iou / (1 + iou))
        print(file=sys.stderr)
        return np.concatenate(found)[self._order]


def encoding_seconds(segmenters: Sequence[BatchedSegmenter]) -> list[float]:
    """CPU seconds that each takes for one of its patches; all take turns, so that other load meets them alike."""
    random = np.random.default_rng(0)
    best = [float("inf")] * len(segmenters)
    for _ in range(REPEATS):
        for number, one in enumerate(segmenters):
            one.encoder.keep_in(None)
            # a patch that was seen before is remembered
            image = random.integers(0, 256, (1, one.input_size, one.input_size, 3), np.uint8)
            best[number] = min(best[number], seconds(partial(one.encoder.encode, image), 1))
    return best
