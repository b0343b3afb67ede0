"""The small Semantic-SAM, on what SAM's frozen encoder gives: the published decoder, narrow and shallow.

It learns from some hundred tiles what the published one learns from a billion masks. So clicks begin as larger boxes,
in which it sees what is around them, and masks are drawn with ellipses around the boxes.
"""

from __future__ import annotations

from segment_anything.modeling.common import LayerNorm2d
from torch import nn

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.pyramid import SimpleFeaturePyramid
from wsi_pipeline.models.mask_decoder import CHANNELS
from wsi_pipeline.models.semantic_sam.answers import Features
from wsi_pipeline.models.semantic_sam.decoder import GranularityDecoder
from wsi_pipeline.models.semantic_sam.network import SemanticNetwork
from wsi_pipeline.models.semantic_sam.pixel_decoder import PixelDecoder
from wsi_pipeline.models.semantic_sam.settings import SemanticSettings

_FINEST = 2
"""Level of the pyramid that is looked at first: as fine as the embedding."""


class MiniSemanticSam(SemanticNetwork):
    """Maps of the embedding and of the early map, which knows outlines more finely.

    Args:
        settings: sizes and names.
        early_channels: of the encoder's early map.
    """

    def __init__(self, settings: SemanticSettings, early_channels: int) -> None:
        size = {"heads": settings.heads, "points": settings.points, "ffn": settings.ffn}
        super().__init__(
            PixelDecoder([settings.width] * 4, settings.width, layers=settings.encoder_layers, **size),
            GranularityDecoder(
                settings.width,
                layers=settings.layers,
                **size,
                objects=len(settings.objects),
                parts=len(settings.parts),
                ellipses=True,
            ),
            click=settings.click,
        )
        self.settings = settings
        self.early = nn.Sequential(nn.Conv2d(early_channels, CHANNELS, 1), LayerNorm2d(CHANNELS))
        self.fine = nn.ConvTranspose2d(CHANNELS, settings.width, 2, 2)
        self.pyramid = SimpleFeaturePyramid(settings.width, _FINEST)

    def features(self, seen: EncoderOutput) -> Features:
        """Features of B encoded images, in float32; masks are drawn twice as finely as the embedding is."""
        known = seen.embedding.float() + self.early(seen.early.float().permute(0, 3, 1, 2))
        return self._mixed([self.fine(known), *self.pyramid(known)])
