"""A domain decoder at work: objects on the embeddings that every other model of its encoder shares."""

from __future__ import annotations

import torch

from wsi_pipeline.models.builders import DTYPES, load_sam
from wsi_pipeline.models.domain_decoder.decoder import KIND, MAP_SIZE, DecoderFacts, DomainMaps, load_domain_decoder
from wsi_pipeline.models.encoding import shared_encoder
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.roles import PairImages


class DomainModel:
    """Encoder and decoder of a plan, see ``domain_plan``.

    Args:
        plan: the files.
        device, dtype: where to compute, and what the encoder computes in; the decoder stays fp32.

    Attributes:
        facts: classes, and whether low patches are looked at.
        size: side of the patches, px.
        px: patch px per px of the maps.
        encoder: counts the patches it encoded.

    Raises:
        WeightsError: a file does not fit.
    """

    def __init__(self, plan: WeightPlan, *, device: str = "cpu", dtype: str = "fp32") -> None:
        sam, decoder = load_sam(plan), load_domain_decoder(plan.files[KIND])
        self.facts: DecoderFacts = decoder.facts
        self.size = sam.variant.image_size
        self.px = self.size / MAP_SIZE
        where = torch.device(device)
        self._decoder = placed(decoder, where, torch.float32).eval()
        self.encoder = shared_encoder(
            sam.image_encoder, sam.variant.pixels, self.size, device=where, dtype=DTYPES[dtype]
        )

    @property
    def uses_low_patch(self) -> bool:
        return self.facts.context_factor is not None

    @torch.inference_mode()
    def maps(self, pairs: PairImages) -> DomainMaps:
        """What the decoder makes of B pairs.

        Raises:
            ValueError: patches of another size, or the low ones are missing.
        """
        if not self.uses_low_patch:
            (high,) = self.encoder.encode(pairs.high)
            return self._decoder(high.in_float32(), None)
        if pairs.low is None:
            raise ValueError("the decoder looks at pairs of patches; the low ones are missing")
        high, low = self.encoder.encode(pairs.high, pairs.low)
        return self._decoder(high.in_float32(), low.embedding.float())
