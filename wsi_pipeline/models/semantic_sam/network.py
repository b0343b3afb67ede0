"""What the published network and the small one have in common: features once an image, then any number of prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from wsi_pipeline.models.semantic_sam.answers import POINT, Answers, Features
from wsi_pipeline.models.semantic_sam.decoder import GranularityDecoder, Judged
from wsi_pipeline.models.semantic_sam.pixel_decoder import PixelDecoder
from wsi_pipeline.models.semantic_sam.settings import CLICK_SIZE


class SemanticNetwork(nn.Module, ABC):
    """A pixel decoder and a decoder; a subclass gives them maps.

    Args:
        pixel_decoder: mixes the maps.
        decoder: answers prompts.
        click: side of the box that a click counts as, share of the image's.
    """

    def __init__(self, pixel_decoder: PixelDecoder, decoder: GranularityDecoder, *, click: float = CLICK_SIZE) -> None:
        super().__init__()
        self.pixel_decoder, self.decoder, self._click = pixel_decoder, decoder, click

    @abstractmethod
    def features(self, seen: Any) -> Features:
        """What prompts are answered on, of B images."""

    def _mixed(self, maps: list[Tensor]) -> Features:
        """Features of maps, fine to coarse; the memory begins with the coarsest level, unlike the pixel decoder's."""
        drawn, levels = self.pixel_decoder(maps)
        memory = torch.cat([level.flatten(2).mT for level in reversed(levels)], dim=1)
        return Features(drawn, memory, tuple((level.shape[-2], level.shape[-1]) for level in reversed(levels)))

    def decode(
        self, features: Features, boxes: Tensor, kinds: Tensor, *, isolate: bool = True, every_layer: bool = False
    ) -> list[Answers]:
        """Answer n prompts on each of B images.

        Args:
            features: of the images.
            boxes: (B, n, 4) cx, cy, w, h as shares of the image; of points only the centre counts.
            kinds: (B, n) int64 ``POINT`` or ``BOX``.
            isolate: see ``GranularityDecoder.forward``.
            every_layer: whether the answers of every layer are wanted, the last at last, or those of the last alone.
        """
        judged = self.judge(features, boxes, kinds, isolate=isolate, every_layer=every_layer)
        return [one.drawn(features) for one in judged]

    def judge(
        self, features: Features, boxes: Tensor, kinds: Tensor, *, isolate: bool = True, every_layer: bool = False
    ) -> list[Judged]:
        """The same before masks are drawn."""
        clicks = torch.cat([boxes[..., :2], torch.full_like(boxes[..., 2:], self._click)], dim=-1)
        boxes = torch.where((kinds == POINT).unsqueeze(-1), clicks, boxes)
        return self.decoder(features, boxes, kinds, isolate=isolate, every_layer=every_layer)
