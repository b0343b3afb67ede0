"""What the file of a trained SAPNet says of itself.

Keys are those of the published checkpoints, ``backbone.``, ``roi_head.bbox_head.`` and ``mask_head.``; the frozen
encoder is not in it, and without an instance branch no ``mask_head.`` is.
"""

from __future__ import annotations

from pydantic import Field

from wsi_pipeline.models.file_facts import FileFacts
from wsi_pipeline.models.sapnet.settings import SapNetSettings
from wsi_pipeline.settings import Section

KIND = "sapnet"


class Proposer(Section):
    """The segmenter that says what a click may mean, and how it is asked."""

    model: str = Field("sam", description="a model that takes points and gives guesses, or takes boxes")
    backbone: str | None = Field(None, description="what it stands on; null: the backbone of SAPNet")
    weights: str | None = Field(None, description="its weights; null: those that ship")
    sides: tuple[float, ...] = Field(
        (12.0, 18.0, 26.0, 38.0, 54.0),
        min_length=1,
        description="of a model that takes boxes: sides of those put around a click, px of the patch",
    )
    low_patch: bool = Field(True, description="ask about the low patch, too, which sees farther")


class SapNetFacts(FileFacts):
    """What a file says of itself besides its parameters.

    Attributes:
        backbone: the SAM whose frozen encoder it stands on, as written in workflows.
        settings: of its parts.
        proposer: whose masks it learned to choose among.
        context_factor: how much farther the low patches saw.
    """

    kind = KIND
    missing = "what SAPNet was trained to find"

    backbone: str
    settings: SapNetSettings
    proposer: Proposer = Proposer()
    context_factor: float = 2.0
