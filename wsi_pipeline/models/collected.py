"""Masks in windows of several sides, put together as one batch of answers."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from wsi_pipeline.models.roles import MaskBatch
from wsi_pipeline.models.windows import CELLS, Windows

BACKGROUND_LOGIT = -32.0
"""The logit of px that surely are background because they lie outside a prompt's window."""


class Collected:
    """Collects N masks, each in its window.

    Args:
        windows: one for each.
        size: side of the patch, px.

    Attributes:
        masks: those that were put; background where none was.
    """

    def __init__(self, windows: Windows, size: int) -> None:
        n, side = len(windows.side), int(windows.side.max(initial=1)) * (size // CELLS)
        self.corner = windows.corners(size)
        # a window narrower than the widest keeps its place within the patch
        origin = np.minimum(self.corner, size - side)
        logits = np.full((n, side, side), BACKGROUND_LOGIT, np.float32)
        self.masks = MaskBatch(logits, origin, np.zeros(n, np.float32))

    def put(self, rows: np.ndarray, logits: Tensor, iou: Tensor) -> None:
        """Take logits (n, s, s) and the IoU (n,) of masks ``rows`` (n,), whose windows have s px a side."""
        side, places = logits.shape[-1], self.corner[rows] - self.masks.origin[rows]
        for row, (x, y), mask in zip(rows, places, logits.cpu().numpy(), strict=True):
            self.masks.logits[row, y : y + side, x : x + side] = mask
        self.masks.iou[rows] = iou.cpu().numpy()
