"""LoRA-SAM that finds boxes first and then draws the object in each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.box_heads import BoxHeads, Found
from wsi_pipeline.models.lora_sam.model import LoraSam
from wsi_pipeline.models.lora_sam.pyramid import strides
from wsi_pipeline.models.roles import Instances, MaskBatch
from wsi_pipeline.models.windows import CELLS, Windows


class BoxedLoraSam(LoraSam):
    """One that finds boxes and draws a mask for each.

    Attributes:
        head: finds them.
    """

    head: BoxHeads

    @property
    def strides(self) -> list[float]:
        """px of each level of the pyramid."""
        return strides(self.size / CELLS, self.settings.finest)

    @abstractmethod
    def mask_logits(
        self, seen: EncoderOutput, levels: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> Tensor:
        """Masks to be compared with ``at_logits`` of the truth.

        Args:
            seen, levels: B images.
            boxes: (n, 4) px of each.
            labels: (n,) int64 their classes, from 1 on.

        Returns:
            (sum of n, h, w) logits, image by image.
        """

    @abstractmethod
    def at_logits(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Maps (n, S, S) float32 of the images where ``mask_logits`` draws those of boxes (n, 4): (n, h, w)."""

    @abstractmethod
    def _draw(self, embedding: Tensor, found: Found, made: Tensor, windows: Windows) -> np.ndarray:
        """(n, side, side) float32 logits at patch px of n objects of one image.

        Args:
            embedding: (1, 256, 64, 64) of the image.
            found: the objects.
            made: (n, ...) what the head made of their regions.
            windows: one for each, all of one side.
        """

    def instances(
        self, seen: EncoderOutput, *, min_score: float, most: int, margin: float | None
    ) -> list[list[Instances]]:
        levels = self.neck(seen)
        found = self.head.find_boxes(levels, self.size, min_score=min_score, most=most)
        boxes = [one.boxes for one in found]
        places = [one.cpu().numpy() for one in boxes]
        made = self.head.of_regions(levels, self.size, boxes).split([len(one) for one in boxes])
        images = seen.embedding.split(1)
        return [
            [self._group(image, one, what, rows, windows) for rows, windows in self.windows(place, margin)]
            for image, one, what, place in zip(images, found, made, places, strict=True)
        ]

    def _group(self, image: Tensor, found: Found, made: Tensor, rows: np.ndarray, windows: Windows) -> Instances:
        """Some objects of an image, drawn in windows of one side."""
        mine = Found(*(part[rows] for part in found))
        logits = self._draw(image, mine, made[rows], windows)
        boxes, scores, labels = (part.cpu().numpy() for part in mine)
        return Instances(MaskBatch(logits, windows.corners(self.size), scores), boxes, scores, self.classes(labels))
