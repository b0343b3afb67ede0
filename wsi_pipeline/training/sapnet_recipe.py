"""What SAPNet is trained with."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.sapnet.file import KIND, Proposer, SapNetFacts
from wsi_pipeline.models.sapnet.settings import EMBEDDED, SapNetSettings, SelectorSettings, SoloSettings
from wsi_pipeline.training.recipe import FrozenRecipe


class SapNetRecipe(FrozenRecipe):
    """SAPNet's: who chooses among proposals and the instance branch learn together, from clicks."""

    from_points = True
    files = (*FrozenRecipe.files, "body")

    width: int = Field(128, ge=32, multiple_of=32, description="channels of the feature maps")
    features: str = Field(
        EMBEDDED, description="what the maps are made of: the embedding, resnet50, or a backbone by its name in timm"
    )
    body: str | None = Field(
        None, description="file of the weights that such a backbone begins with, as torchvision or timm keep them"
    )
    finest: int = Field(0, ge=0, le=2, description="how often the finest map halves the embedding's stride")
    selector: SelectorSettings = Field(SelectorSettings(), description="who chooses among proposals")
    instances: bool = Field(True, description="train the instance branch; without it, clicks are needed in use, too")
    solo: SoloSettings = Field(SoloSettings(), description="the instance branch")
    proposer: Proposer = Field(Proposer(), description="whose masks are proposed")
    zoom: tuple[float, float] = Field(
        (0.8, 1.25), description="smallest and largest magnification; boxes that proposals are asked with have one size"
    )
    points: int = Field(300, ge=1, description="most clicks of a patch in a step")

    @property
    def facts(self) -> SapNetFacts:
        """What the result is."""
        settings = SapNetSettings(
            classes=self.classes,
            width=self.width,
            features=self.features,
            finest=self.finest,
            selector=self.selector,
            instances=self.instances,
            solo=self.solo,
        )
        return SapNetFacts(
            backbone=self.backbone, settings=settings, proposer=self.proposer, context_factor=self.context_factor
        )

    def used_with(self, weights: str) -> dict[str, Any]:
        model = KIND if self.instances else f"{KIND}-select"
        return {"segment": {"model": model, "backbone": self.backbone, "weights": weights}}

    def check(self) -> None:
        super().check()
        if not self.classes:
            fix = "Name those of the clicks, e.g. --set classes=[nucleus]"
            raise TrainingError("clicks are of no class", where="classes", fix=fix)
        if len(set(self.classes)) < len(self.classes):
            raise TrainingError("a class is named twice", where="classes", fix="Name each class once")
        if self.features == EMBEDDED and self.body is not None:
            fix = "Set features to that backbone, or body to null"
            raise TrainingError("an embedding has no backbone of its own to fill", where="body", fix=fix)
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise TrainingError("is no range of magnifications", where="zoom", fix="Use e.g. [0.8, 1.25]")
