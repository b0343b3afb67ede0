"""CLIP2SAM: SAM's mask decoder with one token, and the vectors of regions that are compared with words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.mask_decoder import CHANNELS, CellWindows, Decoded, MaskDecoder
from wsi_pipeline.models.ov_sam.pyramid import pool_from_pyramid
from wsi_pipeline.models.text import class_scores
from wsi_pipeline.models.two_way import ImageSide

GRID = 12
"""Side of the grid that a region is pooled to."""
SCALE = 100.0
"""What cosines are multiplied by: exp(4.6052) in the published files' training."""
NO_CLASS = 0.0
"""Logit of the last column, which means none of the classes."""


class OneMaskDecoder(MaskDecoder):
    """SAM's mask decoder with its first mask token alone; another token stands where SAM predicts the IoU."""

    def __init__(self) -> None:
        super().__init__()
        self.num_mask_tokens = 1
        self.mask_tokens = nn.Embedding(1, CHANNELS)
        self.output_hypernetworks_mlps = nn.ModuleList([MLP(CHANNELS, CHANNELS, CHANNELS // 8, 3)])
        del self.iou_token, self.iou_prediction_head

    def image_side(self, embedding: Tensor, position: Tensor, dense: Tensor) -> ImageSide:
        """As in ``MaskDecoder``."""
        dtype = self.mask_tokens.weight.dtype
        return self.transformer.image_side((embedding + dense).to(dtype), position.to(dtype))

    def decode_beside(self, first: Tensor, image: ImageSide, sparse: Tensor, padding: Tensor | None = None) -> Decoded:
        """Run the transformer; the answer's ``iou_token`` is what became of ``first``.

        Args:
            first: (1, 256) the token in front of the mask's.
            image: B images from ``image_side``.
            sparse: (B, P, K, 256) sparse prompt embeddings.
            padding: (B, P, K) bool, True for prompt tokens that only fill the batch; None when there are none.
        """
        own = torch.cat([first, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(*sparse.shape[:2], -1, -1), sparse.to(own.dtype)], dim=2)
        hidden = None if padding is None else F.pad(padding, (len(own), 0))
        seen, cells = self.transformer(image, tokens, hidden)
        return Decoded(seen[:, :, 0], seen[:, :, 1:2], seen[:, :, 2:2], cells)


class _Convolution(nn.Module):
    """Holds a 1 x 1 convolution without bias under its published name."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class OpenVocabularyDecoder(nn.Module):
    """The head under its published names (Yuan et al. 2024, §3.3).

    Args:
        dim: D, of the words' vectors.
        channels: of the pyramid's levels.
        use_label_token: whether what becomes of the label token is added to the regions' vectors. In the published code
            it is multiplied by zero.
    """

    def __init__(self, dim: int = 768, channels: int = CHANNELS, *, use_label_token: bool = False) -> None:
        super().__init__()
        self.dim, self.use_label_token = dim, use_label_token
        self.mask_decoder = OneMaskDecoder()
        self.label_token = nn.Embedding(1, CHANNELS)
        self.label_mlp = MLP(CHANNELS, CHANNELS, dim, 3)
        self.roi_conv = nn.ModuleList([_Convolution(channels, dim)])

    def decode(self, image: ImageSide, sparse: Tensor, padding: Tensor | None = None) -> Decoded:
        """Prompts (B, P, K, 256) on B images; ``iou_token`` of the answer is what became of the label token."""
        return self.mask_decoder.decode_beside(self.label_token.weight, image, sparse, padding)

    def masks(self, decoded: Decoded, windows: CellWindows | None = None) -> Tensor:
        """(B, P, 1, 4h', 4w') float32 logits."""
        vectors = self.mask_decoder.mask_vectors(decoded, range(1))
        return self.mask_decoder.masks(self.mask_decoder.upscale(decoded, windows), vectors)

    def labels(self, decoded: Decoded) -> Tensor:
        """(B, P, D) what the label token says."""
        return self.label_mlp(decoded.iou_token)

    def embed_regions(
        self, levels: Sequence[Tensor], rows: Tensor, *, size: int, labels: Tensor | None = None
    ) -> Tensor:
        """(N, D) float32 vectors of boxes, of any length.

        Args:
            levels: of the pyramid, (B, C, h_i, w_i).
            rows: (N, 5), see ``regions.box_rows``, px of the padded image, whose side is ``size``.
            size: px.
            labels: (N, D) from ``labels``, where masks were decoded; only read with ``use_label_token``.
        """
        pooled = pool_from_pyramid(levels, rows, size=size, grid=GRID)
        vectors = self.roi_conv[0](pooled.to(self.label_token.weight.dtype)).float().mean(dim=(2, 3))
        return vectors + labels if self.use_label_token and labels is not None else vectors


def class_logits(vectors: Tensor, classes: Tensor, scale: float = SCALE) -> Tensor:
    """(N, K + 1) logits of vectors (N, D) of any length for classes (K, P, D); the last column is "no class"."""
    return F.pad(class_scores(F.normalize(vectors, dim=1), classes, scale), (0, 1), value=NO_CLASS)


def boxes_of_masks(masks: Tensor) -> Tensor:
    """(N, 4) float32 ``x0, y0, x1, y1``, right and bottom exclusive, of masks (N, h, w); zeros for an empty one."""

    def span(seen: Tensor) -> tuple[Tensor, Tensor]:
        length = seen.shape[1]
        return seen.float().argmax(dim=1), length - seen.flip(1).float().argmax(dim=1)

    (x0, x1), (y0, y1) = span(masks.any(dim=1)), span(masks.any(dim=2))
    boxes = torch.stack([x0, y0, x1, y1], dim=1)
    return (boxes * masks.flatten(1).any(dim=1)[:, None]).float()
