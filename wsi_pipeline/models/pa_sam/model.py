"""PA-SAM: SAM with a prompt adapter and a guide image (Xie et al. 2024; keys of the merged ``sam_pa_*.pth``)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.pa_sam.adapter import PaMaps
from wsi_pipeline.models.pa_sam.decoder import PaMaskDecoder
from wsi_pipeline.models.pa_sam.guide import EdgeSource, Guide, guide_image, point_marks
from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.models.sam import Sam, SamInput, Variant, find_variant


class PaMasks(NamedTuple):
    """Masks of P prompts on each of B images.

    Attributes:
        masks: (B, P, 256, 256) float32 logits of the padded square.
        iou: (B, P) predicted IoU.
        maps: the adapter's maps.
    """

    masks: Tensor
    iou: Tensor
    maps: PaMaps


class PaSam(Sam):
    """PA-SAM on any encoder of the SAM family.

    Attributes:
        edges: what the guide shows the edges of; the official weights know ``published`` ones.
    """

    mask_decoder: PaMaskDecoder
    edges: EdgeSource = "published"

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant, PaMaskDecoder())

    def guide(self, pixels: Tensor) -> Guide:
        """The guide of images (B, 3, h, w) of float pixels 0..255, h and w at most the model's side."""
        image = guide_image(pixels, self.variant.image_size, self.edges)
        return Guide(self.mask_decoder.guiding_conv(image), point_marks(self.prompt_encoder))

    def segment(
        self,
        embedding: Tensor,
        guide: Guide,
        prompts: PromptTensors,
        *,
        multimask: bool = False,
        generator: torch.Generator | None = None,
    ) -> PaMasks:
        """Answer (B, P) prompts on encoded images.

        Args:
            embedding: (B, 256, 64, 64) from the image encoder.
            guide: of the same images.
            prompts: in px of the images.
            multimask: the best of the guesses by predicted IoU instead of the single mask.
            generator: of the noise with which points are mined in training.
        """
        asked = embed_prompts(self.prompt_encoder, prompts)
        sparse, padding = asked.sparse, asked.padding
        if prompts.masks is not None:
            # a mask of its own makes the image's tokens the prompt's
            count = prompts.leading[1]
            embedding = embedding.repeat_interleave(count, dim=0)
            guide = guide._replace(tokens=guide.tokens.repeat_interleave(count, dim=0))
            sparse = sparse.flatten(0, 1).unsqueeze(1)
            padding = None if padding is None else padding.flatten(0, 1).unsqueeze(1)
        decoder = self.mask_decoder
        image = decoder.image_side(embedding, self.prompt_encoder.get_dense_pe()[0], asked.dense, guide)
        decoded, maps, _ = decoder.decode_with_maps(image, sparse, padding, generator=generator)
        ambiguous = torch.ones_like(decoded.iou_token[..., 0], dtype=torch.bool) if multimask else None
        vector, iou = decoder.best_vector(decoded, ambiguous)
        masks = decoder.masks(decoder.upscale(decoded), vector).squeeze(2)
        masks, iou, *drawn = (x.reshape(*prompts.leading, *x.shape[2:]) for x in (masks, iou.squeeze(2), *maps))
        return PaMasks(masks, iou, PaMaps(*drawn))

    def low_res(
        self, one: SamInput, image: EncoderOutput, position: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        prompts = PromptTensors(
            boxes=_of_one_image(one.boxes),
            points=_of_one_image(one.points),
            point_labels=_of_one_image(one.point_labels),
            masks=None if one.masks is None else one.masks.transpose(0, 1),
        )
        guide = self.guide(one.image.unsqueeze(0))
        answer = self.segment(image.embedding, guide, prompts, multimask=multimask_output)
        return answer.masks.transpose(0, 1), answer.iou.transpose(0, 1)


def _of_one_image(prompts: Tensor | None) -> Tensor | None:
    return None if prompts is None else prompts.unsqueeze(0)


def build_pa_sam(variant: str) -> PaSam:
    """PA-SAM on an encoder of ``build_sam``'s names, with random weights, in evaluation mode.

    Raises:
        WeightsError: there is no such variant.
    """
    return PaSam(find_variant(variant)).eval()


def init_pa_head(model: PaSam) -> None:
    """Make a model that holds SAM's parameters, and none of PA-SAM's own yet, answer as SAM does.

    See ``PaMaskDecoder.start_from``.
    """
    model.mask_decoder.start_from(model.mask_decoder)
