"""The first route with the domain decoder: maps of px and distances on the adapted encoder."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from wsi_pipeline.models.domain_decoder.decoder import DecoderFacts, DomainDecoder, DomainMaps
from wsi_pipeline.models.domain_decoder.drawing import Drawing
from wsi_pipeline.models.domain_decoder.splitting import SplitSettings
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.lora_sam.model import LoraSam
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.roles import Instances
from wsi_pipeline.models.sam import Sam

NAMELESS = "object"
"""Class of the decoder where objects are found and not named."""


class DomainDecoderLoraSam(LoraSam):
    """The first route with the domain decoder, which looks at the high patch alone.

    For many touching objects, nuclei above all, and for regions of any shape.
    """

    head: DomainDecoder

    def __init__(self, sam: Sam, settings: LoraSamSettings) -> None:
        super().__init__(sam, settings)
        classes = settings.classes or (NAMELESS,)
        self.head = DomainDecoder(
            DecoderFacts(classes=classes, backbone=sam.variant.name, early_channels=sam.image_encoder.early_channels)
        )

    def parts(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def maps(self, seen: EncoderOutput) -> DomainMaps:
        """What the decoder makes of B images."""
        maps: DomainMaps = self.head(seen, None)
        return maps

    def instances(
        self, seen: EncoderOutput, *, min_score: float, most: int, margin: float | None
    ) -> list[list[Instances]]:
        drawing = Drawing(self.size, SplitSettings(), margin or 0.0)
        found = drawing.instances(self.maps(seen), min_score=min_score, most=most)
        return [[replace(group, classes=self.classes(group.classes)) for group in groups] for groups in found]
