"""HQ-SAM: SAM with a high-quality output token (Ke et al. 2023; keys of ``sam_hq_vit_*.pth``).

The mask of the added token is drawn on features fused from the image embedding, an early feature of the encoder and
SAM's own mask features; it is added to SAM's mask, or taken alone. The predicted IoU is that of SAM's mask.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from wsi_pipeline.models.hq_decoder import HqMaskDecoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.prompt_embedding import embed_prompts
from wsi_pipeline.models.sam import Sam, Variant, find_variant
from wsi_pipeline.models.segmenter import BatchedSegmenter, DecoderCall, PairEmbedding


class HqSam(Sam):
    """HQ-SAM on any encoder of the SAM family.

    Attributes:
        hq_token_only: the high-quality mask alone instead of its sum with SAM's.
    """

    mask_decoder: HqMaskDecoder
    hq_token_only = False

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.mask_decoder = HqMaskDecoder(self.image_encoder.early_channels)

    def decode(
        self, image: EncoderOutput, position: Tensor, sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """One mask per prompt: (P, 1, 256, 256) logits and (P, 1) IoU; with ``multimask_output`` on the best guess."""
        decoder = self.mask_decoder
        asked = sparse.unsqueeze(0) if len(dense) == 1 else sparse.unsqueeze(1)
        decoded = decoder.decode(decoder.image_side(image.embedding, position[0], dense), asked)
        features = decoder.image_features(image.embedding, image.early).expand(len(asked), *[-1] * 7)
        ambiguous = asked.new_ones(asked.shape[:2]).bool() if multimask_output else None
        masks, iou = decoder.draw(
            decoded, features, decoder.token_vector(decoded), ambiguous=ambiguous, hq_token_only=self.hq_token_only
        )
        return masks.flatten(0, 1), iou.flatten(0, 1)


def build_hq_sam(variant: str) -> HqSam:
    """HQ-SAM on an encoder of ``build_sam``'s names, with random weights, in evaluation mode.

    Raises:
        WeightsError: there is no such variant.
    """
    return HqSam(find_variant(variant)).eval()


class HqSamSegmenter(BatchedSegmenter):
    """HQ-SAM as a segmenter and refiner of high patches; the low patch is not looked at.

    Args:
        sam: the model.
        hq_token_only: the high-quality mask alone: advised by its authors for images of one object.
        placement: as of ``BatchedSegmenter``.
    """

    def __init__(self, sam: HqSam, *, hq_token_only: bool = False, **placement: Any) -> None:
        super().__init__(sam, **placement)
        self._decoder = placed(sam.mask_decoder, self.device, self.dtype)
        self._hq_token_only = hq_token_only

    def _answer(self, embedding: PairEmbedding, asked: DecoderCall) -> tuple[Tensor, Tensor]:
        embedded = embed_prompts(self._prompt_encoder, asked.prompts)
        seen = EncoderOutput(embedding.high.embedding[asked.images], embedding.high.early[asked.images])
        features = asked.per_image("features", lambda: self._decoder.image_features(*seen))
        image = asked.image_side(lambda: self._decoder.image_side(seen.embedding, self._position, embedded.dense))
        decoded = self._decoder.decode(image, embedded.sparse, embedded.padding)
        return self._decoder.draw(
            decoded,
            features,
            self._decoder.token_vector(decoded),
            ambiguous=self._ambiguous(asked),
            windows=asked.windows,
            hq_token_only=self._hq_token_only,
        )
