"""The first route with Mask R-CNN's heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from wsi_pipeline.models.collected import BACKGROUND_LOGIT
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.box_heads import Found
from wsi_pipeline.models.lora_sam.boxed import BoxedLoraSam
from wsi_pipeline.models.lora_sam.mask_head import MASK_CELLS, MaskRcnnHeads, paste
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.windows import CELLS, Windows


class InstanceLoraSam(BoxedLoraSam):
    """The first route with Mask R-CNN's heads; of SAM only the encoder is left."""

    head: MaskRcnnHeads

    def __init__(self, sam: Sam, settings: LoraSamSettings) -> None:
        super().__init__(sam, settings)
        self.head = MaskRcnnHeads(settings.width, settings.n_classes, self.strides, settings.box_width)

    def mask_logits(
        self, seen: EncoderOutput, levels: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> Tensor:
        made = self.head.of_regions(levels, self.size, boxes)
        return made[torch.arange(len(made)), torch.cat(list(labels))]

    def at_logits(self, maps: Tensor, boxes: Tensor) -> Tensor:
        cells = torch.arange(len(boxes), device=boxes.device)[:, None]
        aligned: Tensor = roi_align(
            maps[:, None], torch.cat([cells.to(boxes), boxes], dim=1), MASK_CELLS, aligned=False
        )
        return aligned[:, 0]

    def _draw(self, embedding: Tensor, found: Found, made: Tensor, windows: Windows) -> np.ndarray:
        start = torch.from_numpy(windows.corners(self.size)).to(embedding.device)
        masks = made[torch.arange(len(made)), found.labels]
        side = int(windows.side[0]) * (self.size // CELLS)
        return paste(masks, found.boxes, start, side, BACKGROUND_LOGIT).cpu().numpy()
