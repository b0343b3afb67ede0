"""The domain decoder: a frozen encoder's embedding to maps of a few classes, trained on a handful of annotated tiles.

The idea, a small transposed-convolution decoder on SAM's bottleneck embedding that then needs no prompts, is that of
arXiv:2305.07586 (knowledge distillation for planetary mapping). The paper gives no widths and no loss; those here are
our own. So are the distance map that tells touching objects apart (after Naylor et al. 2018, but of height 1 for
objects of any size) and, as in HQ-SAM, the encoder's early map beside the embedding: it knows outlines more finely.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.file_facts import FileFacts
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CHANNELS

KIND = "domain-decoder"
WIDTHS = (128, 64, 16)
"""Channels at 64 x 64, 128 x 128 and 256 x 256 px."""
EARLY_WIDTH = 32
"""Channels made of the early map, at 64 x 64 px."""
_GROUPS = 8
"""Of channels that are normalised together; not over the batch, which may hold a single tile."""
MAP_SIZE = 256
"""Side of the maps, px."""
DROPOUT = 0.1
"""Share of the encoder's channels that a training step does not see; a handful of tiles is soon known by heart."""


class DecoderFacts(FileFacts):
    """What a file says of itself besides its parameters.

    Attributes:
        classes: what it tells apart; structures nest, so a px can be of several.
        backbone: the encoder it was trained on, as written in workflows.
        early_channels: of that encoder's early map.
        context_factor: how much farther the low patch it looks at sees; None if it looks at the high patch alone.
    """

    kind = KIND
    missing = "which classes it finds"

    classes: tuple[str, ...]
    backbone: str
    early_channels: int
    context_factor: float | None = None


class DomainMaps(NamedTuple):
    """What the decoder sees on B high patches.

    Attributes:
        masks: (B, C, 256, 256) float32 logits, above 0 inside; classes do not exclude each other.
        distances: (B, C, 256, 256) float32 in 0..1: distance to the outline as a share of the object's largest.
    """

    masks: Tensor
    distances: Tensor


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """A convolution, normalised and bent."""
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, convolution.out_channels), nn.GELU())


class _Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normed(nn.Conv2d(channels, channels, kernel_size=3, padding=1)),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.GroupNorm(_GROUPS, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.layers(x))


class DomainDecoder(nn.Module):
    """Maps of C classes from what an encoder sees on patches.

    Args:
        facts: classes, and whether it looks at low patches.
    """

    def __init__(self, facts: DecoderFacts) -> None:
        super().__init__()
        self.facts = facts
        views = 1 if facts.context_factor is None else 2
        self.dropout = nn.Dropout2d(DROPOUT)
        # parts draw their first weights one after the other: in another order the seed of a recipe means other weights
        coarse, medium, fine = WIDTHS
        self.entry = _normed(nn.Conv2d(views * CHANNELS, coarse, kernel_size=3, padding=1))
        self.early = _normed(nn.Conv2d(facts.early_channels, EARLY_WIDTH, kernel_size=1))
        first = _normed(nn.ConvTranspose2d(coarse + EARLY_WIDTH, medium, kernel_size=2, stride=2))
        second = _normed(nn.ConvTranspose2d(medium, fine, kernel_size=2, stride=2))
        # each px of a transposed convolution knows its own cell only
        self.upscaling = nn.Sequential(first, _Residual(medium), second)
        self.outlines = nn.Sequential(nn.Conv2d(fine, fine, kernel_size=3, padding=1), nn.GELU())
        self.maps = nn.Conv2d(fine, 2 * len(facts.classes), kernel_size=1)

    def forward(self, high: EncoderOutput, low: Tensor | None) -> DomainMaps:
        """Look at B pairs.

        Args:
            high: of the high patches.
            low: (B, 256, 64, 64) embedding of the low ones; only read by a decoder that looks at them.
        """
        seen, early = high.embedding, self.early(self.dropout(high.early.permute(0, 3, 1, 2)))
        if self.facts.context_factor is not None:
            assert low is not None
            seen = torch.cat([seen, middle(low, self.facts.context_factor)], dim=1)
        grown = self.upscaling(torch.cat([self.entry(self.dropout(seen)), early], dim=1))
        masks, distances = self.maps(self.outlines(grown)).float().chunk(2, dim=1)
        return DomainMaps(masks, distances.sigmoid())


def middle(low: Tensor, context_factor: float) -> Tensor:
    """The part of low patches' embeddings (B, C, h, w) that shows the high patches, enlarged to their size."""
    theta = low.new_tensor([[1 / context_factor, 0, 0], [0, 1 / context_factor, 0]]).expand(len(low), 2, 3)
    grid = F.affine_grid(theta, list(low.shape), align_corners=False)
    return F.grid_sample(low, grid, mode="bilinear", align_corners=False)


def load_domain_decoder(path: Path) -> DomainDecoder:
    """A trained decoder, fp32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the file cannot be read, or is of something else.
    """
    decoder = DomainDecoder(DecoderFacts.read(path))
    load_into(decoder, read_state_dict(path), where=path)
    return decoder
