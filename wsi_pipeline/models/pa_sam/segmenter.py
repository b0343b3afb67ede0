"""PA-SAM as the pipeline asks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wsi_pipeline.models.mask_decoder import CellWindows
from wsi_pipeline.models.pa_sam.guide import EdgeSource, Guide, guide_image, point_marks
from wsi_pipeline.models.pa_sam.model import PaSam
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.models.segmenter import BatchedSegmenter, PairEmbedding, reuse
from wsi_pipeline.models.two_way import ImageSide


class PaSamSegmenter(BatchedSegmenter):
    """PA-SAM as a segmenter and refiner of high patches; the low patch is not looked at.

    Args:
        sam: the model.
        edges: what the guide shows the edges of; the official weights know ``published`` ones.
        placement: as of ``BatchedSegmenter``.
    """

    def __init__(self, sam: PaSam, *, edges: EdgeSource = "published", **placement: Any) -> None:
        super().__init__(sam, **placement)
        self._decoder = placed(sam.mask_decoder, self.device, self.dtype)
        self._edges: EdgeSource = edges

    @torch.inference_mode()
    def encode(self, pairs: PairImages) -> PairEmbedding:
        """Embed B pairs, and what guides the prompts to the high patches' edges; raises as ``BatchedSegmenter``."""
        pixels = to_tensor(pairs.high, self.device)
        image = guide_image(pixels, self.input_size, self._edges)
        guide = Guide(self._decoder.guiding_conv(image.to(self.dtype)), point_marks(self._prompt_encoder))
        return replace(super().encode(pairs), guide=guide)

    def _answer(
        self,
        embedding: PairEmbedding,
        images: Tensor,
        prompts: PromptTensors,
        windows: CellWindows | None,
        memo: dict[str, Any],
        *,
        guesses: bool,
    ) -> tuple[Tensor, Tensor]:
        embedded = embed_prompts(self._prompt_encoder, prompts)

        def image_side() -> ImageSide:
            guide = embedding.guide._replace(tokens=embedding.guide.tokens[images])
            return self._decoder.image_side(embedding.high.embedding[images], self._position, embedded.dense, guide)

        # a mask of its own makes the image's tokens the prompt's
        image = image_side() if prompts.masks is not None else reuse(memo, "image", images, image_side)
        decoded = self._decoder.decode(image, embedded.sparse, embedded.padding)
        vectors, iou = self._decoder.best_vector(decoded, self._ambiguous(prompts, guesses=guesses))
        return self._decoder.masks(self._decoder.upscale(decoded, windows), vectors), iou
