"""Networks that put images and words into one space, and those that put words alone; all of them from local files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """What do words mean?"""

    name: str
    """Of the network and its weights: two of one name give the same vectors."""
    dim: int
    """D: length of a vector."""
    logit_scale: float
    """What a cosine is multiplied by before the softmax; as trained."""
    reads_sentences: bool
    """Whether words may be put into sentences; else it knows certain words only."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(K, D) float32 vectors of unit length of K texts, on the encoder's device.

        Raises:
            WorkflowError: it does not know one of them.
        """
        ...


@runtime_checkable
class ImageTextEncoder(TextEncoder, Protocol):
    """What does an image mean, in the same terms?"""

    image_size: int
    """Side of the square that images are resized to, px."""

    def encode_image(self, images: np.ndarray) -> Tensor:
        """(B, D) float32 vectors of unit length of (B, h, w, 3) uint8 RGB images of any size, resized here."""
        ...


@runtime_checkable
class MapEncoder(ImageTextEncoder, Protocol):
    """What do the parts of an image mean?"""

    pool_grid: int | None
    """Side of the grid of map cells that its head takes for a region; None: it takes the mean of the cells."""

    def encode_map(self, images: np.ndarray) -> Tensor:
        """(B, C, h, w) float32, the last map before the head, of images as for ``encode_image``."""
        ...

    def encode_pooled(self, pooled: Tensor) -> Tensor:
        """(N, D) float32 vectors of unit length of N regions of maps.

        Args:
            pooled: (N, C, g, g) with g = ``pool_grid``, or (N, C) where that is None.
        """
        ...
