"""Mask R-CNN's masks on our pyramid (He et al. 2017; torchvision's modules): the other decoder of the first route."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from wsi_pipeline.models.lora_sam.box_heads import BoxHeads

_LAYERS = 4
MASK_CELLS = 28
"""Side of a mask, which fills its box."""


class MaskRcnnHeads(BoxHeads):
    """Boxes, classes and scores, and for each box a mask of ``MASK_CELLS`` a side of every class.

    Args:
        width, n_classes, strides, box_width: as of ``BoxHeads``.
    """

    def __init__(self, width: int, n_classes: int, strides: Sequence[float], box_width: int) -> None:
        convolutions = MaskRCNNHeads(width, (width,) * _LAYERS, dilation=1)
        masks = nn.Sequential(convolutions, MaskRCNNPredictor(width, width, n_classes + 1))
        super().__init__(width, n_classes, strides, box_width, masks)


def paste(masks: Tensor, boxes: Tensor, start: Tensor, side: int, outside: float) -> Tensor:
    """Masks of boxes in windows of a patch.

    Args:
        masks: (n, m, m) logits that fill their boxes.
        boxes: (n, 4) ``x0, y0, x1, y1``, patch px.
        start: (n, 2) (x, y) of each window's top-left px.
        side: of the windows, px.
        outside: logit beyond a box.

    Returns:
        (n, side, side) logits.
    """
    middles = start[:, None] + torch.arange(side, device=start.device)[:, None] + 0.5
    in_box = (middles - boxes[:, None, :2]) / (boxes[:, None, 2:] - boxes[:, None, :2]).clamp(min=1e-3)
    grid = 2 * in_box - 1
    x, y = grid[..., 0], grid[..., 1]
    places = torch.stack([x[:, None].expand(-1, side, -1), y[..., None].expand(-1, -1, side)], dim=-1)
    drawn = F.grid_sample(masks[:, None], places, padding_mode="border", align_corners=False)[:, 0]
    inside = (places.abs() <= 1).all(dim=-1)
    return torch.where(inside, drawn, outside)
