"""The high-quality branch of a mask decoder: one more output token and a map of fused features.

Published with HQ-SAM (Ke et al. 2023) and used by both decoders of WSI-SAM; key names are those of the files:

* ``hf_token``: the additional output token; ``hf_mlp`` turns it into a vector t of 32 numbers.
* ``embedding_encoder`` (E, of the image embedding) and ``compress_vit_feat`` (V, of an early feature of the encoder)
  depend on the image only and are computed once per image.
* ``embedding_maskfeature`` (M, of SAM's up-scaled map U) depends on the prompt.

The branch's mask is t . (M(U) + E + V). Because M ends in a convolution, t is multiplied into its kernel, which
leaves a convolution to a single channel.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import channel_norm, split_cells, unpack
from wsi_pipeline.models.mask_decoder import CHANNELS, CellWindows, Decoded, MaskDecoder, cells_of

FEATURES = CHANNELS // 8
"""Channels of the mask features and of the token's vector t."""


def _two_splits(channels: int, middle: int) -> nn.Sequential:
    """Two 2 x 2 up-scaling convolutions with norm and GELU between; the keys of E and V."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, middle, kernel_size=2, stride=2),
        LayerNorm2d(middle),
        nn.GELU(),
        nn.ConvTranspose2d(middle, FEATURES, kernel_size=2, stride=2),
    )


def _split_twice(layers: nn.Sequential, x: Tensor) -> Tensor:
    first, norm, _, second = layers
    return split_cells(second, F.gelu(channel_norm(norm, split_cells(first, x))))


class HqMaskDecoder(MaskDecoder):
    """SAM's mask decoder with the high-quality branch.

    Args:
        early_channels: Ve, channels of the encoder's early feature.
    """

    def __init__(self, early_channels: int) -> None:
        super().__init__()
        self.hf_token = nn.Embedding(1, CHANNELS)
        self.hf_mlp = MLP(CHANNELS, CHANNELS, FEATURES, 3)
        self.compress_vit_feat = _two_splits(early_channels, CHANNELS)
        self.embedding_encoder = _two_splits(CHANNELS, CHANNELS // 4)
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(FEATURES, CHANNELS // 4, kernel_size=3, padding=1),
            LayerNorm2d(CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(CHANNELS // 4, FEATURES, kernel_size=3, padding=1),
        )

    def output_tokens(self) -> Tensor:
        return torch.cat([super().output_tokens(), self.hf_token.weight])

    def image_features(self, embedding: Tensor, early: Tensor) -> Tensor:
        """E + V, packed.

        Args:
            embedding: (B, 256, h, w) from the image encoder.
            early: (B, h, w, Ve) from the same.

        Returns:
            (B, h, w, 2, 2, 2, 2, 32).
        """
        dtype = self.hf_token.weight.dtype
        local = _split_twice(self.compress_vit_feat, early.to(dtype))
        return local + _split_twice(self.embedding_encoder, embedding.permute(0, 2, 3, 1).to(dtype))

    def token_vector(self, decoded: Decoded) -> Tensor:
        """t of every prompt: (B, P, 1, 32)."""
        return self.hf_mlp(decoded.extra_tokens)

    def hq_masks(
        self, upscaled: Tensor, features: Tensor, vectors: Tensor, windows: CellWindows | None = None
    ) -> Tensor:
        """The branch's masks for any vectors t.

        In a window, px that are nearer than two px to an edge of it which is not the image's are not those of the
        whole map, as M's two convolutions look beyond the edge.

        Args:
            upscaled: (B * P, h', w', 2, 2, 2, 2, 32) from ``upscale``.
            features: (B, h, w, 2, 2, 2, 2, 32) from ``image_features``.
            vectors: (B, P, K, 32).
            windows: the cells of ``upscaled``; None for all.

        Returns:
            (B, P, K, 4h', 4w') float32 logits.
        """
        if windows is None:
            # all prompts of an image share its map
            shared = self.masks(features, vectors.flatten(1, 2).unsqueeze(1))
            fixed = shared.view(*vectors.shape[:3], *shared.shape[-2:])
        else:
            fixed = self.masks(cells_of(features.unsqueeze(1), windows), vectors)
        return fixed + self._prompt_masks(upscaled, vectors)

    def draw(
        self,
        decoded: Decoded,
        features: Tensor,
        token: Tensor,
        *,
        ambiguous: Tensor | None = None,
        windows: CellWindows | None = None,
        hq_token_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The branch's masks, added to SAM's or alone.

        Args:
            decoded: the transformer's answer to (B, P) prompts.
            features: (B, h, w, 2, 2, 2, 2, 32) from ``image_features``.
            token: (B, P, 1, 32) vectors t.
            ambiguous: (B, P) bool, prompts whose SAM mask is the best of three guesses; None for none.
            windows: cells to draw; None for all.
            hq_token_only: leave SAM's mask out.

        Returns:
            (B, P, 1, 4h', 4w') float32 logits and (B, P, 1) the IoU predicted for SAM's mask.
        """
        vector, iou = self.best_vector(decoded, ambiguous)
        upscaled = self.upscale(decoded, windows)
        masks = self.hq_masks(upscaled, features, token, windows)
        if not hq_token_only:
            masks = masks + self.masks(upscaled, vector)
        return masks, iou

    @torch.no_grad()
    def start_from(self, sam: MaskDecoder) -> None:
        """Answer as SAM's own decoder does until the branch is trained.

        The last layer of ``hf_mlp`` is zero, so the branch adds nothing, and its token is hidden from SAM's tokens,
        whose masks it would change.
        """
        self.load_state_dict({**self.state_dict(), **sam.state_dict()})
        self.extra_tokens_visible = False
        self.add_nothing()

    @torch.no_grad()
    def add_nothing(self) -> None:
        """Make t zero, whatever the prompt."""
        last = self.hf_mlp.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def _prompt_masks(self, upscaled: Tensor, vectors: Tensor) -> Tensor:
        """t . M(U) as (B, P, K, 4h', 4w')."""
        conv_1, norm, _, conv_2 = self.embedding_maskfeature
        assert isinstance(conv_2, nn.Conv2d)
        assert conv_2.bias is not None
        x = conv_1(unpack(upscaled).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = F.gelu(channel_norm(norm, x))
        n, height, width, _ = x.shape
        t = vectors.flatten(0, 1)
        k = t.shape[1]
        # nine products per px, then each is moved to where the kernel puts it
        kernel = torch.einsum("nkf,fcyx->nkyxc", t, conv_2.weight).flip(2, 3)
        products = kernel.flatten(1, 3) @ x.flatten(1, 2).mT
        moved = F.fold(products, (height, width), kernel_size=3, padding=1)
        masks = moved + (t @ conv_2.bias).view(n, k, 1, 1)
        return masks.unflatten(0, vectors.shape[:2]).float()
