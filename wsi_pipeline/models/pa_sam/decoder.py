"""PA-SAM's mask decoder: SAM's with the prompt adapter in its last layer (Xie et al. 2024).

Published for one prompt at a time; here any number of prompts on any number of images are one call. What depends on
the image alone, the guiding embedding, travels with the image side. Mask tokens, hyper-networks and up-scaling were
trained along with the adapter, so they are not those of SAM.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsi_pipeline.models.mask_decoder import Decoded, MaskDecoder
from wsi_pipeline.models.pa_sam.adapter import PaMaps, PromptAdapter
from wsi_pipeline.models.pa_sam.guide import Guide, GuidingConv
from wsi_pipeline.models.pa_sam.mining import MinedCells
from wsi_pipeline.models.two_way import ImageSide, TwoWayTransformer

_ADAPTED_LAYER = 1


class PaDecoded(NamedTuple):
    """The transformer's answer and the adapter's.

    Attributes:
        decoded: as of ``MaskDecoder.decode``.
        maps: the adapter's 64 x 64 maps.
        cells: the cells it made points of; None where it made none.
    """

    decoded: Decoded
    maps: PaMaps
    cells: MinedCells | None


class PaMaskDecoder(MaskDecoder):
    """SAM's mask decoder with the prompt adapter.

    Attributes:
        strict: behave as published where that looks like an oversight: the last guess never is the best, and cells in
            which the adapter's masks agree exactly become points, too.
    """

    transformer: TwoWayTransformer
    strict = False

    def __init__(self) -> None:
        super().__init__()
        self.guiding_conv = GuidingConv()
        self.prompt_adapter = PromptAdapter()

    def image_side(self, embedding: Tensor, position: Tensor, dense: Tensor, guide: Guide | None = None) -> ImageSide:
        """As of SAM's decoder, with the images' guide, without which they cannot be decoded."""
        image = super().image_side(embedding, position, dense)
        if guide is not None:
            guide = Guide(*(part.to(image.tokens.dtype) for part in guide))
        return image._replace(guide=guide)

    def decode(self, image: ImageSide, sparse: Tensor, padding: Tensor | None = None) -> Decoded:
        return self.decode_with_maps(image, sparse, padding).decoded

    def decode_with_maps(
        self,
        image: ImageSide,
        sparse: Tensor,
        padding: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> PaDecoded:
        """Run the transformer with the adapter.

        Args:
            image: B images from ``image_side``, with a guide.
            sparse: (B, P, K, 256) sparse prompt embeddings.
            padding: (B, P, K) bool, True for prompt tokens that only fill the batch; None when there are none.
            generator: of the noise with which points are mined in training.
        """
        if image.guide is None:
            raise ValueError("PA-SAM decodes images with a guide; pass one to image_side")
        steps = self.transformer
        exchange = steps.converse(_ADAPTED_LAYER, steps.start(image, *self._all_tokens(sparse, padding)))
        looked = steps.look(_ADAPTED_LAYER, exchange)
        exchange, maps, cells = self.prompt_adapter(
            exchange, looked, image.guide, keep_ties=self.strict, generator=generator
        )
        exchange = steps.settle(_ADAPTED_LAYER, exchange)
        return PaDecoded(self._decoded(steps.finish(exchange), exchange.image), maps, cells)

    def guesses(self) -> range:
        every = super().guesses()
        return every[:-1] if self.strict else every

    @torch.no_grad()
    def start_from(self, sam: MaskDecoder) -> None:
        """Answer as SAM's decoder does until the adapter is trained.

        The last layers of ``guiding_conv``, of the adapter's attention and of ``refined_mlp`` are zero. So G = 0, the
        tokens see nothing of it, and the coarse and the refined mask agree everywhere, so no point says anything. This
        holds in training and evaluation, up to rounding, but not with ``strict``, which points even then. Parameters
        that get no gradient at first get one as soon as those layers have moved.
        """
        self.load_state_dict({**self.state_dict(), **sam.state_dict()})
        adapter = self.prompt_adapter
        for last in (self.guiding_conv[-1], adapter.cross_attn_token_to_image.out_proj, adapter.refined_mlp.layers[-1]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
