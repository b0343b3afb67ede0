"""PA-SAM as the pipeline asks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wsi_pipeline.models.pa_sam.decoder import PaMaskDecoder
from wsi_pipeline.models.pa_sam.guide import EdgeSource, Guide, guide_image, point_marks
from wsi_pipeline.models.pa_sam.model import PaSam
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.models.sam import SamSegmenter
from wsi_pipeline.models.segmenter import PairEmbedding
from wsi_pipeline.models.two_way import ImageSide


class PaSamSegmenter(SamSegmenter):
    """PA-SAM as a segmenter and refiner of high patches: SAM's, whose decoder is guided by the patches' edges.

    Args:
        sam: the model.
        edges: what the guide shows the edges of; None for what the model was made with.
        placement: as of ``BatchedSegmenter``.
    """

    _decoder: PaMaskDecoder

    def __init__(self, sam: PaSam, *, edges: EdgeSource | None = None, **placement: Any) -> None:
        super().__init__(sam, **placement)
        self._edges: EdgeSource = edges or sam.edges

    @torch.inference_mode()
    def encode(self, pairs: PairImages) -> PairEmbedding:
        """Embed B pairs, and what guides the prompts to the high patches' edges; raises as ``BatchedSegmenter``."""
        embedding = super().encode(pairs)
        image = guide_image(to_tensor(pairs.high, self.device), self.input_size, self._edges)
        guide = Guide(self._decoder.guiding_conv(image.to(self.dtype)), point_marks(self._prompt_encoder))
        return replace(embedding, guide=guide)

    def _image_side(self, embedding: PairEmbedding, images: Tensor, dense: Tensor) -> ImageSide:
        guide = embedding.guide._replace(tokens=embedding.guide.tokens[images])
        return self._decoder.image_side(embedding.high.embedding[images], self._position, dense, guide)
