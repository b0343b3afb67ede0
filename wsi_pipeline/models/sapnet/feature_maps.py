"""The feature maps of patches that a trained SAPNet looks at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.encoding import PatchEncoder, shared_encoder
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.sapnet.network import SapNet


class FeatureMaps:
    """Makes them, of what a frozen encoder gives or of their pixels, whichever the network looks at.

    Args:
        network: trained.
        sam: has the encoder.
        device: where to compute.
        dtype: of the encoder; all else stays float32.

    Attributes:
        network: where it computes, in evaluation mode.
        encoder: counts the patches it encoded; None where the network looks at pixels.
    """

    def __init__(self, network: SapNet, sam: Sam, *, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self.network = placed(network, device, torch.float32).eval()
        self.encoder: PatchEncoder | None = None
        if not network.takes_pixels:
            variant = sam.variant
            self.encoder = shared_encoder(
                sam.image_encoder, variant.pixels, variant.image_size, device=device, dtype=dtype
            )

    def of(self, images: np.ndarray, at_once: int) -> Iterator[list[Tensor]]:
        """The maps of (B, S, S, 3) uint8 RGB patches, of at most so many after the other.

        Raises:
            ValueError: patches of another size.
        """
        if self.encoder is None:
            for start in range(0, len(images), at_once):
                yield self.network.levels(to_tensor(images[start : start + at_once], self._device))
        else:
            (seen,) = self.encoder.encode(images)
            yield from map(self.network.levels, seen.in_float32().few_at_once(at_once))
