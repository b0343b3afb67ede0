"""What a LoRA-SAM consists of; recipes choose it, and trained files carry it in their metadata."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wsi_pipeline.settings import Section

Route = Literal["anchor-prompter", "instance", "domain-decoder"]
"""The decoders: SAM's own, asked by a learned prompter; those of Mask R-CNN; maps of px and distances."""
Projection = Literal["q", "k", "v"]


class AdapterSettings(Section):
    """A low-rank update W + (alpha / rank) B A of the attention layers (Hu et al. 2022); numbers as in RSPrompter."""

    rank: int = Field(16, ge=0, le=256, description="of the update; 0 leaves the encoder as it is")
    alpha: float = Field(32.0, gt=0, description="the update counts alpha / rank times")
    dropout: float = Field(0.05, ge=0, lt=1, description="share of the update's inputs left out in training")
    targets: tuple[Projection, ...] = Field(
        ("q", "k", "v"), min_length=1, description="what is updated: queries, keys, values; SAMed takes q and v"
    )


class LoraSamParts(AdapterSettings):
    """An adapter and what stands on it."""

    route: Route = Field(
        "anchor-prompter", description="who draws: anchor-prompter, instance (Mask R-CNN) or domain-decoder"
    )
    features: Literal["embedding", "hidden-states"] = Field(
        "embedding", description="what the pyramid is made of; hidden-states need a plain ViT"
    )
    inner_width: int = Field(512, ge=16, description="channels in which the embedding is made ready for the pyramid")
    width: int = Field(256, ge=16, multiple_of=4, description="channels of the pyramid")
    finest: int = Field(
        0, ge=0, le=2, description="finest level of the pyramid: 0 has a quarter of the embedding's stride, 1 a half"
    )
    points: int = Field(5, ge=1, description="anchor-prompter: prompt tokens of a box (K)")
    box_width: int = Field(1024, ge=16, description="width of the layers that judge boxes")

    @model_validator(mode="after")
    def _hidden_states_need_a_pyramid(self) -> Self:
        if self.route == "domain-decoder" and self.features != "embedding":
            raise ValueError("the domain decoder looks at the embedding; set features to it, or take another route")
        return self


class LoraSamSettings(LoraSamParts):
    """The parts, and what they are trained to find."""

    classes: tuple[str, ...] = Field((), description="classes told apart; none: objects are found, not named")

    @property
    def n_classes(self) -> int:
        """Classes that heads tell from background: nameless objects are of one."""
        return max(1, len(self.classes))
