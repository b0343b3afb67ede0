"""The recipe of SAM-CLIP: one of its three stages, each of which goes on from the file of the one before."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.sam_clip.facts import HeadShape
from wsi_pipeline.training.recipe import FrozenRecipe
from wsi_pipeline.vocabulary import TEMPLATES, Classes


class SamClipRecipe(FrozenRecipe):
    """SAM-CLIP's.

    ``probe`` trains the head on the frozen encoder; ``merge`` all but the prompt encoder, with rehearsal of what SAM
    answers; ``resolution`` the head once more, with views of other sizes.
    """

    files = (*FrozenRecipe.files, "teacher")

    stage: Literal["probe", "merge", "resolution"] = Field("probe", description="what of the published schedule it is")
    teacher: str | None = Field(None, description="folder or checkpoint of an image-text network to learn from")
    teacher_model: str | None = Field(None, description="open_clip's name of the architecture, for a checkpoint")
    words: Classes = Field(
        (), description="classes, with words for them, whose vectors are kept in the file; none: the teacher is needed"
    )
    templates: tuple[str, ...] = Field(TEMPLATES, min_length=1, description="sentences that a word {} is put into")
    shape: HeadShape = Field(HeadShape(), description="size of the head")
    views: tuple[float, ...] = Field(
        (1.0, 0.5, 0.25), min_length=1, description="squares that teacher and head are shown, shares of a patch's side"
    )
    objects: int = Field(8, ge=1, description="masks of a patch that are rehearsed")
    min_object: int = Field(16, ge=1, description="px of the patch; smaller objects are left out")
    rehearsal: float = Field(10.0, ge=0, description="weight of what SAM answers in stage merge; 0: it may forget")
    encoder_rate: float = Field(0.1, gt=0, le=1, description="rate of encoder and decoder as a share of the head's")

    @property
    def merging(self) -> bool:
        """Whether the encoder is trained."""
        return self.stage == "merge"

    def used_with(self, weights: str) -> dict[str, Any]:
        classes = {one.name: list(one.synonyms) for one in self.words}
        return {"recognise": {"model": self.system, "backbone": self.backbone, "weights": weights, "classes": classes}}

    def check(self) -> None:
        super().check()
        if not all(0 < side <= 1 for side in self.views):
            raise TrainingError("a view is a share of a patch's side", where="views", fix="Use shares of at most 1")
        if self.stage != "probe" and self.weights is None:
            fix = "Set it to what the stage before wrote"
            raise TrainingError(f"stage {self.stage} goes on from trained weights", where="weights", fix=fix)
