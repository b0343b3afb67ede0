"""What the selector sees in boxes: class logits, and how much each stands for its bag."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsi_pipeline.models.ov_sam.pyramid import pool_from_pyramid

_HEAD_STD = 0.01


class ProposalScorer(nn.Module):
    """Two layers shared by two stages, and a pair of heads for each stage; keys of ``roi_head.bbox_head``.

    It begins with all boxes worth about the same, as box heads of mmdetection do: what is preferred before anything is
    learned is learned from most, and stays.

    Args:
        channels: of the maps.
        classes: C; the first stage has one more, background, which is last.
        stride: px of the finest map.
        roi: cells along the side of a pooled box.
        hidden: width of the layers.
    """

    def __init__(self, channels: int, classes: int, stride: float, *, roi: int = 7, hidden: int = 1024) -> None:
        super().__init__()
        self.stride, self.roi = stride, roi
        self.shared_fcs = nn.ModuleList([nn.Linear(channels * roi**2, hidden), nn.Linear(hidden, hidden)])
        self.fc_cls = nn.ModuleList([nn.Linear(hidden, classes + 1), nn.Linear(hidden, classes)])
        self.fc_ins = nn.ModuleList([nn.Linear(hidden, classes + 1), nn.Linear(hidden, classes)])
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)
            elif name.startswith("shared"):
                nn.init.xavier_uniform_(value)
            else:
                nn.init.normal_(value, std=_HEAD_STD)

    def look(self, levels: Sequence[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        """What is in boxes, (..., hidden), for the heads of both stages.

        Args:
            levels: (B, channels, ...) maps of square patches, the finest first.
            boxes: (n, 4) or (n, M, 4) px.
            image_index: (n,) int64.
        """
        images = image_index if boxes.dim() == 2 else image_index.repeat_interleave(boxes.shape[1])
        rows = torch.cat([images[:, None].to(boxes), boxes.reshape(-1, 4)], dim=1)
        size = round(levels[0].shape[-1] * self.stride)
        seen = pool_from_pyramid(levels, rows, size=size, grid=self.roi).flatten(1)
        for layer in self.shared_fcs:
            seen = layer(seen).relu()
        return seen.unflatten(0, boxes.shape[:-1])

    def judge(self, seen: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Class and instance logits of what is in boxes: (..., C + 1) in stage 0, the first, (..., C) in stage 1."""
        return self.fc_cls[stage](seen), self.fc_ins[stage](seen)
