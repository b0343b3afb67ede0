"""The head that names regions on a shared encoder: from what its two maps show in a region to a vector like a word's.

It is the published region classifier (a 1 x 1 convolution and ReLU on pooled boxes, the mean, cosines with words),
with three things of our own: the mean under the mask beside the box, the low patch, and a linear layer to the words'
space, because maps of a segmenter do not lie in it as CLIP's do.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.file_facts import FileFacts
from wsi_pipeline.models.mask_decoder import CHANNELS
from wsi_pipeline.vocabulary import Classes

KIND = "ov-sam"
WIDTH = 160
"""Channels after the convolution."""
GRID = 4
"""Side of the grid that a box is pooled to."""
DROPOUT = 0.5
"""Share of the maps' channels that a training step does not see: many, as there are more of them than objects."""
_FIRST_SCALE = 20.0
_LARGEST_SCALE = 100.0
"""CLIP's."""


class RegionFacts(FileFacts):
    """What a file says of itself besides its parameters.

    Attributes:
        classes: what it was trained on, with their synonyms.
        backbone: the encoder it was trained on, as written in workflows.
        early_channels: of that encoder's early map.
        context_factor: how much farther the low patch it looks at sees; None if it looks at the high patch alone.
        text: where words come from: a learned ``table`` of the classes in the same file, or ``minilm``.
        dim: D, length of a word's vector.
    """

    kind = KIND
    missing = "which classes it names"

    classes: Classes
    backbone: str
    early_channels: int
    context_factor: float | None = None
    text: Literal["table", "minilm"] = "table"
    dim: int = 128

    @property
    def channels(self) -> int:
        """Of pooled regions: both maps of every patch looked at, and once more under the mask."""
        views = 1 if self.context_factor is None else 2
        return (views + 1) * (CHANNELS + self.early_channels)


class RegionHead(nn.Module):
    """The trainable part of Open-Vocabulary SAM on a shared encoder; a plain module, for the recipe ``ov-sam`` too.

    ``forward`` takes what ``region_features.region_features`` gives, (N, ``facts.channels``, ``GRID``, ``GRID``), and
    gives (N, ``facts.dim``) vectors of unit length. Logits are ``class_scores(vectors, classes, head.scale)`` with
    classes (K, P, D) from ``text.class_vectors``, or ``head.classes()`` for the learned table.

    Args:
        facts: sizes, and whether it has a table.

    Attributes:
        table: (K, D) learned vectors of the classes, not of unit length; None where words come from elsewhere.
    """

    def __init__(self, facts: RegionFacts) -> None:
        super().__init__()
        self.facts = facts
        # brings maps of different scale to one
        self.norm = nn.BatchNorm2d(facts.channels, affine=False)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.convolution = nn.Conv2d(facts.channels, WIDTH, kernel_size=1)
        self.projection = nn.Linear(WIDTH, facts.dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        learned = facts.text == "table"
        self.table = nn.Parameter(torch.randn(len(facts.classes), facts.dim)) if learned else None

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by, a scalar."""
        return self.log_scale.exp().clamp(max=_LARGEST_SCALE)

    def classes(self) -> Tensor:
        """(K, 1, D) vectors of unit length of the learned table."""
        assert self.table is not None
        return F.normalize(self.table, dim=1).unsqueeze(1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) vectors of unit length of regions (N, C, g, g)."""
        seen = F.relu(self.convolution(self.dropout(self.norm(features))))
        return F.normalize(self.projection(seen.mean(dim=(2, 3))), dim=1)


def load_region_head(path: Path) -> RegionHead:
    """A trained head, fp32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the file cannot be read, or is of something else.
    """
    head = RegionHead(RegionFacts.read(path))
    load_into(head, read_state_dict(path), where=path)
    return head
