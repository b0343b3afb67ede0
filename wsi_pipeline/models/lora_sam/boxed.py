"""LoRA-SAM that finds boxes first and then draws the object in each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor, nn

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.models.backbones.vit import ViTEncoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.box_heads import BoxHeads, Found
from wsi_pipeline.models.lora_sam.hidden_states import AggregatingEncoder
from wsi_pipeline.models.lora_sam.model import LoraSam
from wsi_pipeline.models.lora_sam.pyramid import (
    FeatureAggregator,
    FeatureNeck,
    LightAggregator,
    SimpleFeaturePyramid,
    strides,
)
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.roles import Instances, MaskBatch
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.windows import CELLS, Windows


class BoxedLoraSam(LoraSam):
    """One that finds boxes on a feature pyramid and draws a mask for each.

    Attributes:
        neck: makes the pyramid of what the encoder gives.
        head: finds the boxes; set by the subclass.

    Raises:
        WorkflowError: hidden states are wanted of an encoder whose blocks do not all see one map.
    """

    head: BoxHeads

    def __init__(self, sam: Sam, settings: LoraSamSettings) -> None:
        super().__init__(sam, settings)
        pyramid = SimpleFeaturePyramid(settings.width, settings.finest)
        self.neck = FeatureNeck(_aggregator(sam, settings), pyramid)

    def parts(self) -> dict[str, nn.Module]:
        return {"neck": self.neck, "head": self.head}

    def encoder(self) -> nn.Module:
        """As of any LoRA-SAM, and the aggregator where it looks at hidden states."""
        if isinstance(self.neck.feature_aggregator, FeatureAggregator):
            assert isinstance(self.image_encoder, ViTEncoder)
            return AggregatingEncoder(self.image_encoder, self.neck.feature_aggregator)
        return super().encoder()

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
