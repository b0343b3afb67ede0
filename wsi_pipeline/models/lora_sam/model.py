"""LoRA-SAM: an adapted encoder under a pyramid; the routes, in files of their own, find objects on it.

Layout: B images of S px, an embedding of 64 x 64 cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.backbones.vit import ViTEncoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.hidden_states import AggregatingEncoder
from wsi_pipeline.models.lora_sam.lora import add_adapter
from wsi_pipeline.models.lora_sam.pyramid import (
    FeatureAggregator,
    FeatureNeck,
    LightAggregator,
    SimpleFeaturePyramid,
)
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.roles import Instances
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.windows import Windows


class LoraSam(nn.Module, ABC):
    """An adapted encoder under a pyramid; a subclass finds objects on it.

    Args:
        sam: the backbone, whose encoder is taken and given an adapter.
        settings: of the parts.

    Attributes:
        size: S, side of the images, px.
        pixels: how the encoder wants them.
        head: what looks at the pyramid; set by the subclass.
        finest_only: whether that is its finest level alone.

    Raises:
        WorkflowError: hidden states are wanted of an encoder whose blocks do not all see one map.
    """

    head: nn.Module
    finest_only: ClassVar[bool] = False

    def __init__(self, sam: Sam, settings: LoraSamSettings) -> None:
        super().__init__()
        self.settings, self.size, self.pixels = settings, sam.variant.image_size, sam.variant.pixels
        aggregator = _aggregator(sam, settings)
        self.image_encoder = sam.image_encoder
        self.image_encoder.requires_grad_(False)
        if settings.rank:
            add_adapter(self.image_encoder, settings)
        pyramid = SimpleFeaturePyramid(settings.width, settings.finest, finest_only=self.finest_only)
        self.neck = FeatureNeck(aggregator, pyramid)

    def parts(self) -> dict[str, nn.Module]:
        """What is trained whole, by name."""
        return {"neck": self.neck, "head": self.head}

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
        """What has to see the images: the encoder, and the aggregator where it looks at hidden states."""
        if isinstance(self.neck.feature_aggregator, FeatureAggregator):
            assert isinstance(self.image_encoder, ViTEncoder)
            return AggregatingEncoder(self.image_encoder, self.neck.feature_aggregator)
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

    def windows(self, boxes: np.ndarray, margin: float | None) -> Iterator[tuple[np.ndarray, Windows]]:
        """Rows of boxes (n, 4) and their windows, those of one side together; ``margin`` as of ``instances``."""
        if margin is None:
            return Windows.whole(len(boxes)).by_side()
        return Windows.around(boxes, margin, self.size).by_side()


def _aggregator(sam: Sam, settings: LoraSamSettings) -> FeatureAggregator | LightAggregator:
    if settings.features == "embedding":
        return LightAggregator(settings.inner_width)
    if not isinstance(sam.image_encoder, ViTEncoder):
        raise WorkflowError(
            f"{sam.variant.name} has no hidden states of one size",
            where="features",
            fix="Set it to embedding, or take vit-b, vit-l or vit-h",
        )
    return FeatureAggregator(sam.image_encoder.early_channels, len(sam.image_encoder.blocks))
