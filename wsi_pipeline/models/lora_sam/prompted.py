"""The second route: SAM's mask decoder, asked by the anchor prompter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.anchor import AnchorPrompter
from wsi_pipeline.models.lora_sam.box_heads import Found
from wsi_pipeline.models.lora_sam.boxed import BoxedLoraSam
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.segmenter import Canvas, cells_to_draw
from wsi_pipeline.models.windows import Windows


class PromptedLoraSam(BoxedLoraSam):
    """The second route: SAM's mask decoder, asked with the tokens that the anchor prompter makes up.

    Attributes:
        decode_batch: most objects decoded at once.
    """

    head: AnchorPrompter
    decode_batch = 64

    def __init__(self, sam: Sam, settings: LoraSamSettings) -> None:
        super().__init__(sam, settings)
        self.head = AnchorPrompter(
            settings.width, settings.n_classes, self.strides, settings.box_width, settings.points
        )
        self.mask_decoder, self.prompt_encoder = sam.mask_decoder, sam.prompt_encoder
        self.prompt_encoder.requires_grad_(False)

    def parts(self) -> dict[str, nn.Module]:
        return super().parts() | {"mask_decoder": self.mask_decoder}

    def no_mask(self) -> Tensor:
        """(1, 256, 1, 1) dense prompt, the same in every cell."""
        weight: Tensor = self.prompt_encoder.no_mask_embed.weight
        return weight[..., None, None]

    def mask_logits(
        self, seen: EncoderOutput, levels: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> Tensor:
        made = self.head.of_regions(levels, self.size, boxes).split([len(one) for one in boxes])
        masks = [
            self._decode(seen.embedding[number : number + 1], tokens, None)[0] for number, tokens in enumerate(made)
        ]
        return F.interpolate(torch.cat(masks)[None], (self.size, self.size), mode="bilinear", align_corners=False)[0]

    def at_logits(self, maps: Tensor, boxes: Tensor) -> Tensor:
        return maps

    def _decode(self, embedding: Tensor, tokens: Tensor, windows: Windows | None) -> Tensor:
        """(1, n, 4h', 4w') logits of tokens (n, K, 256) on one image."""
        decoder = self.mask_decoder
        position = self.prompt_encoder.get_dense_pe()[0]
        image = decoder.image_side(embedding, position, self.no_mask())
        parts = []
        for rows in torch.arange(len(tokens)).split(self.decode_batch):
            decoded = decoder.decode(image, tokens[rows][None])
            cells = None
            if windows is not None:
                cells = cells_to_draw(windows, rows.numpy()[None], embedding.device)
            vectors = decoder.mask_vectors(decoded, range(1))
            parts.append(decoder.masks(decoder.upscale(decoded, cells), vectors)[:, :, 0])
        return torch.cat(parts, dim=1)

    def _draw(self, embedding: Tensor, found: Found, made: Tensor, windows: Windows) -> np.ndarray:
        canvas = Canvas(windows, self.size)
        canvas.put(np.arange(len(made)), self._decode(embedding, made, windows)[0], found.scores)
        return canvas.masks().logits
