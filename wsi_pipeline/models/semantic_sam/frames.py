"""Windows of masks that were drawn over whole patches, enlarged to the patch's own px."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.roles import MaskBatch
from wsi_pipeline.models.segmenter import BACKGROUND_LOGIT
from wsi_pipeline.models.windows import CELLS, Windows


class Frames:
    """Cuts the windows of N masks out of what was drawn.

    Args:
        windows: one for each mask.
        size: side of the patch, px.

    Attributes:
        masks: those that were put; nothing where none was.
    """

    def __init__(self, windows: Windows, size: int) -> None:
        n, cell = len(windows.side), size // CELLS
        side = int(windows.side.max(initial=1)) * cell
        self._size, self._side, self._corner = size, windows.side * cell, windows.corners(size)
        # a window narrower than the widest keeps its place within the patch
        origin = np.minimum(self._corner, size - side)
        self.masks = MaskBatch(np.full((n, side, side), BACKGROUND_LOGIT, np.float32), origin, np.zeros(n, np.float32))

    def put(self, rows: np.ndarray, drawn: Tensor, iou: Tensor) -> None:
        """Take logits (n, h, w) over the patch and IoU (n,) of masks ``rows`` (n,), whose windows are of one side."""
        side = int(self._side[rows[0]])
        corner = torch.from_numpy(self._corner[rows]).to(drawn.device)
        px = (corner.unsqueeze(1) + torch.arange(side, device=drawn.device).unsqueeze(1) + 0.5) / self._size
        x, y = px[:, None, :, 0].expand(-1, side, -1), px[:, :, None, 1].expand(-1, -1, side)
        grid = 2 * torch.stack([x, y], dim=-1) - 1
        # the same as an enlargement of the whole
        cut = F.grid_sample(drawn.unsqueeze(1), grid, padding_mode="border", align_corners=False).squeeze(1)
        for row, (left, top), mask in zip(
            rows, self._corner[rows] - self.masks.origin[rows], cut.cpu().numpy(), strict=True
        ):
            self.masks.logits[row, top : top + side, left : left + side] = mask
        self.masks.iou[rows] = iou.cpu().numpy()
