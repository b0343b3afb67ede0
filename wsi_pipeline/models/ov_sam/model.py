"""Open-Vocabulary SAM with an image-text network as its only encoder: it draws, and names what it drew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.image_text.openclip import OpenClip
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.ov_sam.published import OvSamParts
from wsi_pipeline.models.ov_sam.recogniser import OpenVocabularyRecogniser, SeenStages
from wsi_pipeline.models.ov_sam.stages import shared_stages
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.preprocess import SAM_PIXELS
from wsi_pipeline.models.prompt_embedding import embed_prompts
from wsi_pipeline.models.roles import PairImages, Regions
from wsi_pipeline.models.sam import Sam, Variant
from wsi_pipeline.models.segmenter import BatchedSegmenter, DecoderCall, PairEmbedding

if TYPE_CHECKING:
    from wsi_pipeline.models.sam import Encoder

PROMPT_KINDS = frozenset({"box", "point"})


class OpenVocabularySam(BatchedSegmenter):
    """Plays ``roles.Segmenter``, and ``roles.Recogniser`` where it is given words.

    It predicts no IoU; in its place stands the mean probability of the px inside a mask.

    Args:
        clip: the image-text network.
        parts: what was trained on it.
        recogniser: of the same two; None to draw only.
        placement: ``decode_batch`` and other arguments of ``BatchedSegmenter``.

    Attributes:
        stages: counts the patches it encoded.
    """

    def __init__(
        self, clip: OpenClip, parts: OvSamParts, recogniser: OpenVocabularyRecogniser | None = None, **placement: Any
    ) -> None:
        # the adapter stands where others have their encoder; it is given maps here, never pixels
        adapter = cast("Encoder", parts.neck)
        variant = Variant("ov-sam", parts.image_size, SAM_PIXELS, PROMPT_KINDS, False, lambda: adapter)
        sam = Sam(variant, parts.mask_decoder.mask_decoder)
        sam.prompt_encoder = parts.pe
        super().__init__(sam, device=clip.device, dtype=clip.dtype, **placement)
        self.stages = shared_stages(clip)
        self._adapter = placed(parts.neck, clip.device, clip.dtype).eval()
        self._decoder = placed(parts.mask_decoder, clip.device, clip.dtype).eval()
        self._recogniser = recogniser
        self.class_names = () if recogniser is None else recogniser.class_names

    @torch.inference_mode()
    def encode(self, pairs: PairImages) -> PairEmbedding:
        """Embed B high patches once, for both roles.

        Raises:
            ValueError: patches of another size.
        """
        if pairs.high.shape[1:] != (self.input_size, self.input_size, 3):
            raise ValueError(f"patches of shape {pairs.high.shape[1:]} for a model that takes {self.input_size} px")
        seen = self.stages.encode(pairs.high)
        embedding = torch.cat([self._adapter(stages) for stages in seen])
        nothing = embedding.new_zeros(len(embedding), 0)
        return PairEmbedding(EncoderOutput(embedding, nothing), None, pairs.context_factor, SeenStages(seen))

    def recognise(self, embedding: PairEmbedding, regions: Regions) -> np.ndarray:
        """(N, C) float32 probabilities of the classes of N regions of encoded pairs."""
        assert self._recogniser is not None
        return self._recogniser.recognise(embedding.guide, regions)

    def _answer(self, embedding: PairEmbedding, asked: DecoderCall) -> tuple[Tensor, Tensor]:
        embedded = embed_prompts(self._prompt_encoder, asked.prompts)
        decoder = self._decoder.mask_decoder
        image = asked.image_side(
            lambda: decoder.image_side(embedding.high.embedding[asked.images], self._position, embedded.dense)
        )
        decoded = self._decoder.decode(image, embedded.sparse, embedded.padding)
        masks = self._decoder.masks(decoded, asked.windows)
        return masks, sureness(masks)


def sureness(logits: Tensor) -> Tensor:
    """Mean probability of the px inside masks (..., h, w); 0 for an empty one."""
    inside = (logits > 0).float()
    return (logits.sigmoid() * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1)).clamp(min=1)
