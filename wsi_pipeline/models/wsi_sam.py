"""WSI-SAM: two mask decoders on a pair of patches (Liu et al. 2024; keys of ``net_high`` and ``net_low``).

The high patch is segmented; the low patch, with the same centre but seeing farther, gives context. Both are encoded
by one encoder and prompted alike, each has a decoder with the high-quality branch, and the branches' vectors t are
added before they meet the high patch's features:

    mask = (t_high + t_low) . F_high + SAM's mask of the high branch

So of the low branch only the token is needed: neither up-scaling nor mask features are computed for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wsi_pipeline.models.hq_decoder import HqMaskDecoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CellWindows
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.preprocess import restore
from wsi_pipeline.models.prompt_embedding import EmbeddedPrompts, PromptTensors, embed_prompts
from wsi_pipeline.models.sam import Sam, Variant, find_variant
from wsi_pipeline.models.segmenter import BatchedSegmenter, DecoderCall, PairEmbedding
from wsi_pipeline.models.two_way import ImageSide


class PairSide(NamedTuple):
    """What decoding needs of B pairs, computed once per pair.

    Attributes:
        high, low: the image sides of both transformers.
        features: (B, 64, 64, 2, 2, 2, 2, 32), packed E + V of the high patch.
    """

    high: ImageSide
    low: ImageSide
    features: Tensor


class WsiMasks(NamedTuple):
    """Masks of P prompts on each of B pairs.

    Attributes:
        masks: (B, P, 1, 4h', 4w') float32 logits on the high patch.
        iou: (B, P, 1) IoU that the high branch predicts for its SAM mask.
    """

    masks: Tensor
    iou: Tensor


class DualDecoder(nn.Module):
    """The two decoders and their joint answer.

    Args:
        high, low: decoders of one architecture.
    """

    def __init__(self, high: HqMaskDecoder, low: HqMaskDecoder) -> None:
        super().__init__()
        self.high = high
        self.low = low

    def prepare(self, high: EncoderOutput, low: Tensor, position: Tensor, dense: tuple[Tensor, Tensor]) -> PairSide:
        """Everything about B pairs that no sparse prompt changes.

        Args:
            high: the high patches' encoder output.
            low: (B, 256, h, w) the low patches' embedding.
            position: (256, h, w) dense position code.
            dense: dense prompt embeddings for high and low, as in ``MaskDecoder.image_side``.
        """
        return PairSide(
            high=self.high.image_side(high.embedding, position, dense[0]),
            low=self.low.image_side(low, position, dense[1]),
            features=self.high.image_features(high.embedding, high.early),
        )

    def forward(
        self,
        pair: PairSide,
        high: EmbeddedPrompts,
        low: EmbeddedPrompts,
        *,
        ambiguous: Tensor | None = None,
        windows: CellWindows | None = None,
    ) -> WsiMasks:
        """Answer prompts given to both branches.

        Args:
            pair: B pairs from ``prepare``.
            high, low: (B, P) prompts in the frames of the two patches.
            ambiguous: (B, P) bool, prompts whose SAM mask is the best of three guesses; None for none.
            windows: cells to draw; None for all.
        """
        decoded = self.high.decode(pair.high, high.sparse, high.padding)
        token = self.high.token_vector(decoded)
        token = token + self.low.token_vector(self.low.decode(pair.low, low.sparse, low.padding))
        return WsiMasks(*self.high.draw(decoded, pair.features, token, ambiguous=ambiguous, windows=windows))


class WsiSam(nn.Module):
    """WSI-SAM on any encoder of the SAM family.

    ``sam`` holds the image and prompt encoder that both branches share (and SAM's own decoder, as the published base
    files do); ``high`` and ``low`` have the keys of ``net_high`` and ``net_low``.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.sam = Sam(variant)
        channels = self.sam.image_encoder.early_channels
        self.high = HqMaskDecoder(channels)
        self.low = HqMaskDecoder(channels)

    def forward(
        self,
        high: Tensor,
        low: Tensor,
        prompts: PromptTensors,
        *,
        context_factor: float = 2.0,
        strict: bool = False,
        multimask: bool = False,
    ) -> Tensor:
        """Segment pairs of patches.

        Args:
            high, low: (B, 3, S, S) float pixels 0..255.
            prompts: (B, P) prompts in px of the high patch.
            context_factor: how much farther the low patch sees.
            strict: round the low patch's coordinates as the published inference does.
            multimask: add SAM's best of three guesses instead of its single mask.

        Returns:
            (B, P, S, S) float32 logits on the high patch.
        """
        size = self.sam.variant.image_size
        seen_high, seen_low = self.sam.encode(high), self.sam.encode(low)
        asked_high = embed_prompts(self.sam.prompt_encoder, prompts)
        moved = prompts.in_low_patch(size, context_factor, floor=strict)
        asked_low = embed_prompts(self.sam.prompt_encoder, moved)
        position = self.sam.prompt_encoder.get_dense_pe()[0]
        both = DualDecoder(self.high, self.low)
        pair = both.prepare(seen_high, seen_low.embedding, position, (asked_high.dense, asked_low.dense))
        ambiguous = asked_high.sparse.new_ones(asked_high.sparse.shape[:2], dtype=torch.bool) if multimask else None
        masks = both(pair, asked_high, asked_low, ambiguous=ambiguous).masks.squeeze(2)
        return restore(masks, size, (size, size), (size, size))


def build_wsi_sam(variant: str) -> WsiSam:
    """WSI-SAM on an encoder of ``build_sam``'s names, with random weights, in evaluation mode.

    Raises:
        WeightsError: there is no such variant.
    """
    return WsiSam(find_variant(variant)).eval()


def init_wsi_head(wsi: WsiSam) -> None:
    """Make untrained decoders answer exactly as SAM's own, see ``HqMaskDecoder.start_from``."""
    for decoder in (wsi.high, wsi.low):
        decoder.start_from(wsi.sam.mask_decoder)


class WsiSamSegmenter(BatchedSegmenter):
    """WSI-SAM as a segmenter and refiner.

    Args:
        wsi: the model.
        strict: round the low patch's coordinates as the published inference does.
        placement: as of ``BatchedSegmenter``.
    """

    uses_low_patch = True

    def __init__(self, wsi: WsiSam, *, strict: bool = False, **placement: Any) -> None:
        super().__init__(wsi.sam, **placement)
        self._decoders = DualDecoder(
            placed(wsi.high, self.device, self.dtype), placed(wsi.low, self.device, self.dtype)
        )
        self._strict = strict

    def _answer(self, embedding: PairEmbedding, asked: DecoderCall) -> tuple[Tensor, Tensor]:
        moved = asked.prompts.in_low_patch(self.input_size, embedding.context_factor, floor=self._strict)
        high, low = (embed_prompts(self._prompt_encoder, p) for p in (asked.prompts, moved))

        def prepare() -> PairSide:
            assert embedding.low is not None
            seen = EncoderOutput(embedding.high.embedding[asked.images], embedding.high.early[asked.images])
            context = embedding.low.embedding[asked.images]
            return self._decoders.prepare(seen, context, self._position, (high.dense, low.dense))

        pair = asked.image_side(prepare)
        return self._decoders(pair, high, low, ambiguous=self._ambiguous(asked), windows=asked.windows)
