"""SAM's mask decoder for many prompts per image and many images per batch (keys of segment-anything).

Decoding has three steps: what depends on the image alone (``image_side``), the transformer (``decode``), and masks
(``masks``). After the transformer every operation is local, so masks can be drawn in a window of cells only; inside
the window they equal those of the whole map.

Layout: B images, P prompts each, a map of h x w = 64 x 64 cells, masks of four px per cell.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling.mask_decoder import MaskDecoder as OfficialMaskDecoder
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.layers import channel_norm, split_cells, unpack
from wsi_pipeline.models.two_way import ImageSide, TwoWayTransformer

CHANNELS = 256
"""Width of embeddings and tokens."""
PX_PER_CELL = 4
"""Mask px along the side of an embedding cell."""


class Decoded(NamedTuple):
    """The transformer's answer to B x P prompts.

    Attributes:
        iou_token: (B, P, 256).
        mask_tokens: (B, P, 4, 256); the first is for one unambiguous mask, the others for three guesses.
        extra_tokens: (B, P, E, 256), output tokens of a decoder that has more than SAM's.
        image: (B, P, h * w, 256).
    """

    iou_token: Tensor
    mask_tokens: Tensor
    extra_tokens: Tensor
    image: Tensor


class CellWindows(NamedTuple):
    """One window of cells per prompt, all of one size.

    Attributes:
        rows: (B, P, h') int64, the cells' rows in the embedding.
        columns: (B, P, w') int64.
    """

    rows: Tensor
    columns: Tensor


def cells_of(maps: Tensor, windows: CellWindows | None) -> Tensor:
    """Cells (B * P, h', w', ...) of maps (B, P or 1, h, w, ...); all cells when ``windows`` is None."""
    if windows is None:
        return maps.flatten(0, 1)
    b, p = windows.rows.shape[:2]
    image = torch.arange(b, device=maps.device)[:, None, None, None]
    prompt = torch.arange(p, device=maps.device)[None, :, None, None] if maps.shape[1] > 1 else image * 0
    return maps[image, prompt, windows.rows[..., :, None], windows.columns[..., None, :]].flatten(0, 1)


class MaskDecoder(OfficialMaskDecoder):
    """SAM's mask decoder.

    Attributes:
        extra_tokens_visible: whether a subclass's own output tokens can be seen by SAM's and by the image, as in the
            published systems. When they cannot, SAM's masks are those of SAM.
    """

    extra_tokens_visible = True

    def __init__(self) -> None:
        transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=8, mlp_dim=2048)
        super().__init__(transformer_dim=CHANNELS, transformer=transformer)

    def image_side(self, embedding: Tensor, position: Tensor, dense: Tensor) -> ImageSide:
        """Everything about B images that no sparse prompt changes.

        Args:
            embedding: (B, 256, h, w) from the image encoder.
            position: (256, h, w) dense position code.
            dense: dense prompt embedding, broadcastable to ``embedding``. When every prompt brings its own mask, each
                is an "image" with one prompt: B prompts, P = 1.
        """
        dtype = self.iou_token.weight.dtype
        return self.transformer.image_side((embedding + dense).to(dtype), position.to(dtype))

    def output_tokens(self) -> Tensor:
        """(5 + E, 256) tokens in front of the prompt's: IoU, masks, and those a subclass adds."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def decode(self, image: ImageSide, sparse: Tensor, padding: Tensor | None = None) -> Decoded:
        """Run the transformer.

        Args:
            image: B images from ``image_side``.
            sparse: (B, P, K, 256) sparse prompt embeddings.
            padding: (B, P, K) bool, True for prompt tokens that only fill the batch; None when there are none.
        """
        tokens, hidden = self._all_tokens(sparse, padding)
        return self._decoded(*self.transformer(image, tokens, hidden))

    def _all_tokens(self, sparse: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Output and prompt tokens (B, P, 5 + E + K, 256), and (B, P, 5 + E + K) which of them are hidden."""
        own = self.output_tokens()
        tokens = torch.cat([own.expand(*sparse.shape[:2], -1, -1), sparse.to(own.dtype)], dim=2)
        if padding is None and self.extra_tokens_visible:
            return tokens, None
        hidden = torch.zeros(tokens.shape[:3], dtype=torch.bool, device=tokens.device)
        hidden[..., 1 + self.num_mask_tokens : len(own)] = not self.extra_tokens_visible
        if padding is not None:
            hidden[..., len(own) :] = padding
        return tokens, hidden

    def _decoded(self, tokens: Tensor, image: Tensor) -> Decoded:
        masks_end, own_end = 1 + self.num_mask_tokens, len(self.output_tokens())
        return Decoded(tokens[:, :, 0], tokens[:, :, 1:masks_end], tokens[:, :, masks_end:own_end], image)

    def guesses(self) -> range:
        """Numbers of the mask tokens whose masks are guesses at what an ambiguous prompt means."""
        return range(1, self.num_mask_tokens)

    def iou(self, decoded: Decoded) -> Tensor:
        """(B, P, 4) predicted IoU, one for each mask token."""
        return self.iou_prediction_head(decoded.iou_token).float()

    def mask_vectors(self, decoded: Decoded, numbers: range) -> Tensor:
        """(B, P, len(numbers), 32): the hyper-networks' answers for some of the mask tokens."""
        networks = self.output_hypernetworks_mlps
        return torch.stack([networks[n](decoded.mask_tokens[:, :, n]) for n in numbers], dim=2)

    def best_vector(self, decoded: Decoded, ambiguous: Tensor | None) -> tuple[Tensor, Tensor]:
        """One mask per prompt.

        Args:
            decoded: the transformer's answer.
            ambiguous: (B, P) bool, prompts that get the best of the three guesses by predicted IoU instead of the
                single mask; None when there are none.

        Returns:
            (B, P, 1, 32) mask vectors and (B, P, 1) predicted IoU.
        """
        iou = self.iou(decoded)
        if ambiguous is None:
            return self.mask_vectors(decoded, range(1)), iou[..., :1]
        vectors = self.mask_vectors(decoded, range(self.num_mask_tokens))
        guesses = self.guesses()
        best = iou[..., guesses.start : guesses.stop].argmax(dim=-1) + guesses.start
        number = torch.where(ambiguous, best, 0)
        chosen = vectors.take_along_dim(number[..., None, None], dim=2)
        return chosen, iou.take_along_dim(number[..., None], dim=2)

    def upscale(self, decoded: Decoded, windows: CellWindows | None = None) -> Tensor:
        """Packed feature maps (B * P, h', w', 2, 2, 2, 2, 32), four by four px per cell."""
        first, norm, _, second, _ = self.output_upscaling
        b, p, n, _ = decoded.image.shape
        side = int(n**0.5)
        cells = cells_of(decoded.image.view(b, p, side, side, -1), windows)
        cells = F.gelu(channel_norm(norm, split_cells(first, cells)))
        return F.gelu(split_cells(second, cells))

    def masks(self, upscaled: Tensor, vectors: Tensor) -> Tensor:
        """Mask logits (B, P, K, 4h', 4w') float32 of ``upscale``'s maps for mask vectors (B, P, K, 32)."""
        b, p, k, c = vectors.shape
        n, h, w = upscaled.shape[:3]
        logits = upscaled.reshape(n, -1, c) @ vectors.flatten(0, 1).mT
        image = unpack(logits.view(n, h, w, 2, 2, 2, 2, k))
        return image.permute(0, 3, 1, 2).unflatten(0, (b, p)).float()

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Whole masks of prompts on one image, with the arguments of the published module.

        Args:
            image_embeddings: (1, 256, h, w).
            image_pe: (1, 256, h, w).
            sparse_prompt_embeddings: (P, K, 256).
            dense_prompt_embeddings: (P or 1, 256, h, w).
            multimask_output: the three guesses instead of the single mask.

        Returns:
            (P, 1 or 3, 4h, 4w) mask logits and (P, 1 or 3) predicted IoU.
        """
        sparse = sparse_prompt_embeddings.unsqueeze(0)
        # a dense prompt of its own makes each prompt an image of its own
        if dense_prompt_embeddings.shape[0] > 1:
            sparse = sparse.transpose(0, 1)
        image = self.image_side(image_embeddings, image_pe[0], dense_prompt_embeddings)
        decoded = self.decode(image, sparse)
        numbers = self.guesses() if multimask_output else range(1)
        masks = self.masks(self.upscale(decoded), self.mask_vectors(decoded, numbers))
        iou = self.iou(decoded)[..., numbers.start : numbers.stop]
        return masks.flatten(0, 1), iou.flatten(0, 1)
