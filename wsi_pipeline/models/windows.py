"""Where in a patch to draw masks, and which prompts to decode together.

With a box prompt everything outside the box and a margin is background, so masks are drawn in a square window of
embedding cells around it. A prompt's window depends on its own box only, and prompts are decoded in an order that
depends on their own image only, so the answers do not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CELLS = 64
"""Cells along the side of an image embedding."""
HALO = 1
"""Cells to draw beyond a window, so that convolutions (two mask px) and the bilinear up-scaling (one mask px) see what
they would see in the whole map."""
WINDOW_SIDES = np.array([4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, CELLS])
"""Sides, in cells, that windows are rounded up to, so that many prompts share one."""


@dataclass(frozen=True, slots=True)
class Windows:
    """One square window of cells per prompt.

    Attributes:
        start: (N, 2) int64 (x, y) of each window's first cell.
        side: (N,) int64 cells.
    """

    start: np.ndarray
    side: np.ndarray

    @classmethod
    def whole(cls, n: int) -> Windows:
        """The whole embedding for each of ``n`` prompts."""
        return cls(np.zeros((n, 2), np.int64), np.full(n, CELLS, np.int64))

    @classmethod
    def around(cls, boxes: np.ndarray, margin: float, size: int) -> Windows:
        """The smallest windows that hold boxes (N, 4) of a patch of ``size`` px, grown by ``margin`` of their size."""
        boxes = np.asarray(boxes, np.float64)
        corners, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        cell = size / CELLS
        first = np.floor((corners - margin * extent) / cell)
        last = np.ceil((boxes[:, 2:] + margin * extent) / cell)
        first, last = np.clip(first, 0, CELLS - 1), np.clip(last, 1, CELLS)
        wanted = np.maximum(last - first, 1).max(axis=1)
        side = WINDOW_SIDES[np.searchsorted(WINDOW_SIDES, wanted)]
        middle = (first + last) / 2
        start = np.clip(np.floor(middle - side[:, None] / 2), 0, CELLS - side[:, None])
        return cls(start.astype(np.int64), side.astype(np.int64))

    def repeated(self, times: int) -> Windows:
        """Every window so many times, one after the other."""
        return Windows(self.start.repeat(times, axis=0), self.side.repeat(times))

    def by_side(self) -> Iterator[tuple[np.ndarray, Windows]]:
        """Numbers of the windows of each side, ascending, and these windows."""
        for side in np.unique(self.side):
            rows = np.flatnonzero(self.side == side)
            yield rows, Windows(self.start[rows], self.side[rows])

    def corners(self, size: int) -> np.ndarray:
        """(N, 2) int64 (x, y) of the windows' top-left px on a patch of ``size`` px."""
        return self.start * (size // CELLS)

    def drawn(self) -> Windows:
        """The windows that have to be drawn to be right inside these."""
        side = np.minimum(self.side + 2 * HALO, CELLS)
        return Windows(np.clip(self.start - HALO, 0, CELLS - side[:, None]), side)


@dataclass(frozen=True, slots=True)
class DecodeCall:
    """Prompts to decode at once: as many for each image, with windows of one side.

    Attributes:
        images: (b,) int64 numbers of the images.
        rows: (b, p) int64 numbers of each image's prompts.
    """

    images: np.ndarray
    rows: np.ndarray


def plan_calls(image_index: np.ndarray, side: np.ndarray, prompts: int, images: int) -> Iterator[DecodeCall]:
    """Split prompts into calls.

    Args:
        image_index: (N,) image of each prompt.
        side: (N,) window side of each prompt, in cells.
        prompts: most prompts per image and call.
        images: most images per call; only equally long chunks of equal window side share a call.
    """
    chunks: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    for image in np.unique(image_index):
        of_image = np.flatnonzero(image_index == image)
        for window in np.unique(side[of_image]):
            rows = of_image[side[of_image] == window]
            for start in range(0, len(rows), prompts):
                chunk = rows[start : start + prompts]
                key = (len(chunk), int(window))
                waiting = chunks.setdefault(key, [])
                waiting.append((int(image), chunk))
                if len(waiting) == images:
                    yield _call(chunks.pop(key))
    for waiting in chunks.values():
        yield _call(waiting)


def cut_windows(drawn: Tensor, size: tuple[int, int], corner: Tensor, side: int) -> Tensor:
    """Windows of one side of masks that were drawn over whole patches: the same as parts of the enlarged whole.

    Args:
        drawn: (n, h, w) float, over the patch.
        size: (height, width) px of the patch.
        corner: (n, 2) int64 (x, y) px of the windows' top-left px.
        side: px.

    Returns:
        (n, side, side), one value per patch px.
    """
    height, width = size
    px = corner.unsqueeze(1) + torch.arange(side, device=corner.device).unsqueeze(1) + 0.5
    places = 2 * px / torch.tensor([width, height], device=corner.device) - 1
    x, y = places[:, None, :, 0].expand(-1, side, -1), places[:, :, None, 1].expand(-1, -1, side)
    grid = torch.stack([x, y], dim=-1).to(drawn)
    return F.grid_sample(drawn.unsqueeze(1), grid, padding_mode="border", align_corners=False).squeeze(1)


def _call(chunks: list[tuple[int, np.ndarray]]) -> DecodeCall:
    return DecodeCall(np.array([image for image, _ in chunks]), np.stack([rows for _, rows in chunks]))
