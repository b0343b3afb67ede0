"""What a small Semantic-SAM is trained with."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.semantic_sam.settings import SemanticSettings
from wsi_pipeline.training.recipe import FrozenRecipe


class SemanticRecipe(FrozenRecipe):
    """Semantic-SAM's, on a frozen encoder."""

    network: SemanticSettings = Field(SemanticSettings(), description="sizes of the network, and names it tells apart")
    matching: Literal["many-to-many", "many-to-one", "by-size"] = Field(
        "many-to-many",
        description="a click learns all objects around it, or one of them, as SAM does; by-size: all, the first answer"
        " the largest, the last the smallest",
    )
    zoom: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.5, 2.0), description="least and most that patches are enlarged, so that one click means things of any size"
    )
    clicks: int = Field(60, ge=1, description="prompts on a patch")
    boxes: float = Field(0.2, ge=0, le=1, description="share of the prompts that are boxes")
    points: int = Field(12_544, ge=16, description="points of a mask at which it is compared")
    min_object: int = Field(16, ge=1, description="px of the patch; smaller objects are left out")
    judged_clicks: int = Field(64, ge=1, description="clicks on a sample that epochs are judged on")

    def used_with(self, weights: str) -> dict[str, Any]:
        return {"segment": {"model": self.system, "backbone": self.backbone, "weights": weights}}

    def check(self) -> None:
        super().check()
        both = sorted(set(self.network.objects) & set(self.network.parts))
        if both:
            fix = "Name it under network.objects or network.parts"
            raise TrainingError(f"{', '.join(both)} is an object and a part", where="network", fix=fix)
