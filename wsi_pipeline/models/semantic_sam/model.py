"""The published Semantic-SAM, on a Swin backbone."""

from __future__ import annotations

from torch import Tensor

from wsi_pipeline.models.preprocess import SAM_PIXELS
from wsi_pipeline.models.semantic_sam.answers import Features
from wsi_pipeline.models.semantic_sam.decoder import GranularityDecoder
from wsi_pipeline.models.semantic_sam.network import SemanticNetwork
from wsi_pipeline.models.semantic_sam.pixel_decoder import PixelDecoder
from wsi_pipeline.models.semantic_sam.swin import SWIN_SIZES, Swin

WIDTH = 256
_LAYER = {"heads": 8, "points": 4, "ffn": 2048}
_ENCODER_LAYERS, _DECODER_LAYERS = 6, 9


class SemanticSam(SemanticNetwork):
    """Finds masks of six granularities.

    Args:
        backbone: ``swin-t`` or ``swin-l``.
    """

    def __init__(self, backbone: str) -> None:
        size = SWIN_SIZES[backbone]
        super().__init__(
            PixelDecoder(size.channels, WIDTH, layers=_ENCODER_LAYERS, **_LAYER),
            GranularityDecoder(WIDTH, layers=_DECODER_LAYERS, **_LAYER, ellipses=False),
        )
        self.backbone = Swin(size)

    def features(self, seen: Tensor) -> Features:
        """Features of images (B, 3, S, S) of pixels 0..255, S a multiple of 32 px."""
        # the backbone may be in half precision, which the rest would lose places in
        dtype = next(self.backbone.parameters()).dtype
        return self._mixed([one.float() for one in self.backbone(SAM_PIXELS.apply(seen).to(dtype))])
