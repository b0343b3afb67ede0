"""What a frozen encoder makes of training patches, encoded once and found on disk afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from wsi_pipeline.models.encoding import PatchEncoder, shared_encoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.sam import Sam


class FrozenFeatures:
    """Embeddings that can be trained on.

    Args:
        encoder: keeps what it has encoded.
    """

    def __init__(self, encoder: PatchEncoder) -> None:
        self.encoder = encoder

    @classmethod
    def of(cls, sam: Sam, folder: Path, device: torch.device) -> FrozenFeatures:
        """Those of a model's image encoder, fp32, kept in ``folder``: 7 MB for each patch of LiteMedSAM."""
        encoder = shared_encoder(
            sam.image_encoder, sam.variant.pixels, sam.variant.image_size, device=device, dtype=torch.float32
        )
        encoder.keep_in(folder)
        return cls(encoder)

    def __call__(self, images: np.ndarray) -> EncoderOutput:
        """Embed (B, S, S, 3) uint8 RGB patches.

        Raises:
            ValueError: patches of another size.
            OutputError: the folder cannot be written.
        """
        # validation asks in the precision of training, but what is kept is fp32 for everyone
        with torch.autocast(self.encoder.device.type, enabled=False):
            (output,) = self.encoder.encode(images)
        # Tensors made for inference cannot take part in a gradient, copies can. Those just made are laid out otherwise
        # than those from disk, and sums would differ in their last bits.
        return EncoderOutput(*(part.clone(memory_format=torch.contiguous_format) for part in output))
