"""What a small Semantic-SAM consists of; recipes choose it, and trained files carry it in their metadata."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from wsi_pipeline.settings import Section

CLICK_SIZE = 0.005
"""Side of the box that a click counts as, share of the image's; published for inference."""


class SemanticSettings(Section):
    """Sizes of the parts on a frozen encoder, and the names its two heads tell apart."""

    width: int = Field(128, ge=32, multiple_of=32, description="channels of the features and the queries")
    layers: int = Field(3, ge=1, description="of the decoder; published: 9")
    heads: int = Field(8, ge=1, description="of attention")
    points: int = Field(4, ge=1, description="places that each head of deformable attention looks at on each level")
    ffn: int = Field(512, ge=16, description="width of the layers between attentions; published: 2048")
    click: float = Field(
        0.1, gt=0, le=1, description="side of the box that a click counts as, share of the patch's; published: 0.005"
    )
    encoder_layers: int = Field(1, ge=0, description="deformable layers that mix the levels; published: 6")
    objects: tuple[str, ...] = Field((), description="classes of whole objects; none: they are not named")
    parts: tuple[str, ...] = Field((), description="classes of parts of objects; none: they are not named")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads cannot share a width of {self.width}")
        return self
