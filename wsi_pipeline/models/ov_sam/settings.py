"""An image-text network of the user's, as workflows write it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from wsi_pipeline.quantities import Share
from wsi_pipeline.settings import Section


class ClipSettings(Section):
    """Where it lies, and how it is asked about regions."""

    path: Path = Field(description="a checkpoint of open_clip, or a folder as open_clip or transformers write it")
    model: str | None = Field(None, description="open_clip's name of a checkpoint's architecture, e.g. ViT-B-16")
    how: Literal["image-crop", "feature-crop"] = Field(
        "image-crop", description="one look at every object, or one at the tile and from its map every object"
    )
    background: Literal["keep", "remove"] = Field(
        "keep", description="image-crop: what surrounds an object within its box is shown, or is white"
    )
    base: tuple[str, ...] = Field((), description="with weights: classes that they were trained on; others are new")
    alpha: Share = Field(0.1, description="with weights: say of the network alone on classes in base")
    beta: Share = Field(0.9, description="with weights: say of the network alone on new classes")
