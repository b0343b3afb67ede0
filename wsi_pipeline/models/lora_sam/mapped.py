"""The first route with a class for every px."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.model import LoraSam
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.roles import Instances, MaskBatch
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.segmenter import BACKGROUND_LOGIT
from wsi_pipeline.models.windows import CELLS, Windows


class SemanticLoraSam(LoraSam):
    """The first route with a class for every px: for tissue, whose regions do not overlap and may have any shape."""

    finest_only = True

    def __init__(self, sam: Sam, settings: LoraSamSettings) -> None:
        super().__init__(sam, settings)
        self.head = nn.Conv2d(settings.width, settings.n_classes + 1, 1)

    def class_logits(self, seen: EncoderOutput) -> Tensor:
        """(B, 1 + C, S, S) logits of background and the classes."""
        logits = self.head(self.neck(seen)[0])
        return F.interpolate(logits.float(), (self.size, self.size), mode="bilinear", align_corners=False)

    def instances(
        self, seen: EncoderOutput, *, min_score: float, most: int, margin: float | None
    ) -> list[list[Instances]]:
        """As of ``LoraSam``; an object is a connected region of one class, and its score the mean probability there."""
        maps = self.class_logits(seen).softmax(dim=1).cpu().numpy()
        return [self._regions(probabilities, min_score, most, margin) for probabilities in maps]

    def _regions(self, probabilities: np.ndarray, min_score: float, most: int, margin: float | None) -> list[Instances]:
        """The objects of one image (1 + C, S, S)."""
        found = [one for one in regions_of(probabilities) if one.score > min_score]
        found = sorted(found, key=lambda one: -one.score)[:most]
        boxes = np.array([one.box for one in found], np.float32).reshape(-1, 4)
        return [
            self._group([found[row] for row in rows], boxes[rows], windows, probabilities)
            for rows, windows in self.windows(boxes, margin)
        ]

    def _group(
        self, found: Sequence[Region], boxes: np.ndarray, windows: Windows, probabilities: np.ndarray
    ) -> Instances:
        corners, side = windows.corners(self.size), int(windows.side[0]) * (self.size // CELLS)
        logits = np.stack(
            [
                _log_odds(one, probabilities)[y : y + side, x : x + side]
                for one, (x, y) in zip(found, corners, strict=True)
            ]
        )
        scores = np.array([one.score for one in found], np.float32)
        labels = np.array([one.label for one in found], np.int64)
        return Instances(MaskBatch(logits, corners, scores), boxes, scores, self.classes(labels))


class Region(NamedTuple):
    """A connected region.

    Attributes:
        label: its class, from 1 on.
        box: ``x0, y0, x1, y1`` px.
        score: mean probability of the class, 0..1.
        mask: (S, S) bool.
    """

    label: int
    box: tuple[int, int, int, int]
    score: float
    mask: np.ndarray


def regions_of(probabilities: np.ndarray) -> Iterator[Region]:
    """Regions (4-neighbours) in which one class is the likeliest, of (1 + C, S, S) probabilities, background first."""
    likeliest = probabilities.argmax(axis=0)
    for label in range(1, len(probabilities)):
        parts, _ = ndimage.label(likeliest == label)
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
            mask = parts == number
            box = (columns.start, rows.start, columns.stop, rows.stop)
            yield Region(label, box, float(probabilities[label][mask].mean()), mask)


def _log_odds(region: Region, probabilities: np.ndarray) -> np.ndarray:
    """(S, S) float32 logits: above 0 exactly in the region."""
    p = np.clip(probabilities[region.label], 1e-6, 1 - 1e-6)
    rest = np.delete(probabilities, region.label, axis=0).max(axis=0)
    # against the likeliest other class, so that 0 is where the region ends
    logits = np.log(p) - np.log(np.clip(rest, 1e-6, 1))
    others = (logits > 0) & ~region.mask
    return np.where(others, np.float32(BACKGROUND_LOGIT), logits).astype(np.float32)
