"""LoRA-SAM: an adapted encoder; the routes, in files of their own, find objects on what it gives.

Layout: B images of S px, an embedding of 64 x 64 cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor, nn

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.lora import add_adapter
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.roles import Instances
from wsi_pipeline.models.sam import Sam


class LoraSam(nn.Module, ABC):
    """An adapted encoder; a subclass finds objects on what it gives.

    Args:
        sam: the backbone, whose encoder is taken and given an adapter.
        settings: of the parts.

    Attributes:
        size: S, side of the images, px.
        pixels: how the encoder wants them.
    """

    def __init__(self, sam: Sam, settings: LoraSamSettings) -> None:
        super().__init__()
        self.settings, self.size, self.pixels = settings, sam.variant.image_size, sam.variant.pixels
        self.image_encoder = sam.image_encoder
        self.image_encoder.requires_grad_(False)
        if settings.rank:
            add_adapter(self.image_encoder, settings)

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """What is trained whole, by name."""

    def train(self, mode: bool = True) -> LoraSam:
        """As of any module, but batch norms keep their averages.

        Those of the encoder are frozen with it. Those of the heads stay at mean 0 and variance 1 and scale channels:
        with one or two patches at once they would follow the patch.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def encoder(self) -> nn.Module:
        """What has to see the images."""
        return self.image_encoder

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """Encode images (B, 3, S, S) of pixels 0..255."""
        seen: EncoderOutput = self.encoder()(self.pixels.apply(pixels))
        return seen

    @abstractmethod
    def instances(
        self, seen: EncoderOutput, *, min_score: float, most: int, margin: float | None
    ) -> list[list[Instances]]:
        """The objects of each image, those whose windows are of one side together.

        Args:
            seen: B images, from ``encoder``.
            min_score: objects need a higher score.
            most: the most objects of an image.
            margin: draw only a window that holds the object's box grown by this share of its size; None: all.
        """

    def classes(self, labels: np.ndarray) -> np.ndarray:
        """(n,) int64 of ``Instances``; objects that are found and not named have no class."""
        return labels if self.settings.classes else np.zeros_like(labels)
