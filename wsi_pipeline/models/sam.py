"""SAM, MobileSAM and LiteMedSAM: one image encoder each, the same prompt encoder and mask decoder.

Sources: Kirillov et al. 2023 (segment-anything), Zhang et al. 2023 (MobileSAM), Ma et al. 2024 (LiteMedSAM). State
dict keys are those of the published files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling.prompt_encoder import PromptEncoder
from torch import Tensor, nn

from wsi_pipeline.errors import PromptError, WeightsError
from wsi_pipeline.models.backbones.tiny_vit import TinyViT, lite_medsam_encoder, mobile_sam_encoder
from wsi_pipeline.models.backbones.vit import VIT_SIZES, ViTEncoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CHANNELS, MaskDecoder
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.preprocess import SAM_PIXELS, UNIT_PIXELS, PixelScale, pad_to_square, restore
from wsi_pipeline.models.prompt_embedding import embed_prompts
from wsi_pipeline.models.segmenter import BatchedSegmenter, DecoderCall, PairEmbedding
from wsi_pipeline.models.two_way import ImageSide

Encoder = ViTEncoder | TinyViT


@dataclass(frozen=True, slots=True)
class Variant:
    """What distinguishes one member of the family.

    Attributes:
        name: as in ``build_sam``.
        image_size: side of the input in px.
        pixels: how the input is scaled.
        prompt_kinds: prompts it was trained for.
        guesses: whether the three guesses for ambiguous prompts were trained.
        encoder: builds the image encoder.
    """

    name: str
    image_size: int
    pixels: PixelScale
    prompt_kinds: frozenset[str]
    guesses: bool
    encoder: Callable[[], Encoder]


def _sam(name: str, encoder: Callable[[], Encoder]) -> Variant:
    return Variant(name, 1024, SAM_PIXELS, frozenset({"box", "point", "mask"}), True, encoder)


VARIANTS = {
    "vit_b": _sam("vit_b", lambda: ViTEncoder(VIT_SIZES["vit_b"])),
    "vit_l": _sam("vit_l", lambda: ViTEncoder(VIT_SIZES["vit_l"])),
    "vit_h": _sam("vit_h", lambda: ViTEncoder(VIT_SIZES["vit_h"])),
    "vit_t": _sam("vit_t", mobile_sam_encoder),
    # trained on boxes and on the single mask only
    "lite_medsam": Variant("lite_medsam", 256, UNIT_PIXELS, frozenset({"box"}), False, lite_medsam_encoder),
}


@dataclass(frozen=True, slots=True)
class SamInput:
    """An image and P prompts for the complete forward pass.

    Attributes:
        image: (3, h, w) float pixels 0..255, already resized to the model's longest side.
        original_size: (height, width) in px of the masks wanted.
        boxes: (P, 4) x0, y0, x1, y1 in px of ``image``, or None.
        points: (P, K, 2) (x, y) in px of ``image``, or None.
        point_labels: (P, K) 1 inside, 0 outside, with ``points``.
        masks: (P, 1, 256, 256) coarse logits, or None.
    """

    image: Tensor
    original_size: tuple[int, int]
    boxes: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None
    masks: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SamOutput:
    """Masks of P prompts on one image.

    Attributes:
        masks: (P, K, *original_size) bool.
        iou: (P, K) predicted IoU.
        logits: (P, K, 256, 256) of the padded square.
    """

    masks: Tensor
    iou: Tensor
    logits: Tensor


class Sam(nn.Module):
    """A member of the SAM family with the published module and key names.

    Args:
        variant: one of ``VARIANTS``.
        decoder: a mask decoder built on SAM's; None for SAM's own.
    """

    def __init__(self, variant: Variant, decoder: MaskDecoder | None = None) -> None:
        super().__init__()
        self.variant = variant
        self.image_encoder = variant.encoder()
        self.prompt_encoder = PromptEncoder(
            embed_dim=CHANNELS,
            image_embedding_size=(64, 64),
            input_image_size=(variant.image_size, variant.image_size),
            mask_in_chans=16,
        )
        self.mask_decoder = decoder or MaskDecoder()

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Scale pixels (..., 3, h, w) 0..255 and pad them to the model's square."""
        return pad_to_square(self.variant.pixels.apply(pixels), self.variant.image_size)

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """Encode images (B, 3, h, w) of pixels 0..255, h and w at most the model's side."""
        return self.image_encoder(self.preprocess(pixels))

    def forward(self, inputs: Sequence[SamInput], multimask_output: bool = False) -> list[SamOutput]:
        """Segment images of any shape; all images are encoded in one batch.

        Args:
            inputs: images with their prompts.
            multimask_output: the three guesses per prompt instead of the single mask.

        Raises:
            PromptError: three guesses from a model that was trained for one mask only.
        """
        if multimask_output and not self.variant.guesses:
            raise PromptError(f"{self.variant.name} gives one mask per prompt", fix="Ask for the single mask")
        square = torch.stack([self.preprocess(one.image) for one in inputs])
        seen = zip(*(part.split(1) for part in self.image_encoder(square)), strict=True)
        position = self.prompt_encoder.get_dense_pe()
        return [
            self._answer(one, EncoderOutput(*image), position, multimask_output)
            for one, image in zip(inputs, seen, strict=True)
        ]

    def _answer(self, one: SamInput, image: EncoderOutput, position: Tensor, multimask_output: bool) -> SamOutput:
        logits, iou = self.low_res(one, image, position, multimask_output)
        resized = (one.image.shape[-2], one.image.shape[-1])
        restored = restore(logits, self.variant.image_size, resized, one.original_size)
        return SamOutput(restored > 0, iou, logits)

    def low_res(
        self, one: SamInput, image: EncoderOutput, position: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """(P, K, 256, 256) logits of the padded square and (P, K) IoU of the prompts on one encoded image."""
        points = None
        if one.points is not None:
            points = (one.points, one.point_labels)
        sparse, dense = self.prompt_encoder(points=points, boxes=one.boxes, masks=one.masks)
        if one.masks is None:
            # the same for every prompt
            dense = dense[:1]
        return self.decode(image, position, sparse, dense, multimask_output)

    def decode(
        self, image: EncoderOutput, position: Tensor, sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Masks of prompts on one image, as ``MaskDecoder.forward``."""
        return self.mask_decoder(image.embedding, position, sparse, dense, multimask_output)


def find_variant(name: str) -> Variant:
    """The variant of that name.

    Raises:
        WeightsError: there is none.
    """
    if name not in VARIANTS:
        raise WeightsError(f"there is no variant {name!r} of SAM", fix=f"Choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def build_sam(variant: str) -> Sam:
    """A member of the family with random weights, in evaluation mode.

    Args:
        variant: ``vit_b``, ``vit_l``, ``vit_h`` (SAM), ``vit_t`` (MobileSAM) or ``lite_medsam``.

    Raises:
        WeightsError: there is no such variant.
    """
    return Sam(find_variant(variant)).eval()


class SamSegmenter(BatchedSegmenter):
    """SAM, MobileSAM or LiteMedSAM as a segmenter and refiner of high patches; the low patch is not looked at."""

    def __init__(self, sam: Sam, **placement: Any) -> None:
        super().__init__(sam, **placement)
        self._decoder = placed(sam.mask_decoder, self.device, self.dtype)
        self.n_guesses = len(sam.mask_decoder.guesses()) if sam.variant.guesses else 1

    def _answer(self, embedding: PairEmbedding, asked: DecoderCall) -> tuple[Tensor, Tensor]:
        embedded = embed_prompts(self._prompt_encoder, asked.prompts)
        image = asked.image_side(lambda: self._image_side(embedding, asked.images, embedded.dense))
        decoded = self._decoder.decode(image, embedded.sparse, embedded.padding)
        if asked.guesses and self.n_guesses > 1:
            numbers = self._decoder.guesses()
            vectors = self._decoder.mask_vectors(decoded, numbers)
            iou = self._decoder.iou(decoded)[..., numbers.start : numbers.stop]
        else:
            vectors, iou = self._decoder.best_vector(decoded, self._ambiguous(asked))
        return self._decoder.masks(self._decoder.upscale(decoded, asked.windows), vectors), iou

    def _image_side(self, embedding: PairEmbedding, images: Tensor, dense: Tensor) -> ImageSide:
        return self._decoder.image_side(embedding.high.embedding[images], self._position, dense)
