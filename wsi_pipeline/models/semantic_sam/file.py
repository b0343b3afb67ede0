"""The file of a small Semantic-SAM: its tensors as safetensors, what they are in its metadata; no backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator

from wsi_pipeline.granularity import LEVELS
from wsi_pipeline.models.file_facts import FileFacts
from wsi_pipeline.models.semantic_sam.settings import SemanticSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam

KIND = "semantic-sam"
PROMPTS = frozenset({"box", "point"})
"""What it can be asked, whatever its backbone can."""
_EARLY = "early.0.weight"


class SemanticFacts(FileFacts):
    """What a file says of itself besides its parameters.

    Attributes:
        backbone: name of the backbone it was trained on.
        settings: sizes and names.
        levels: the number of the answer that is of level 1, the coarsest, to 6.
    """

    kind = KIND
    missing = "what Semantic-SAM learned"

    backbone: str
    settings: SemanticSettings
    levels: tuple[int, ...]

    @field_validator("levels")
    @classmethod
    def _each_once(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(levels) != list(range(LEVELS)):
            raise ValueError("each answer is of one level")
        return levels


def load_semantic_sam(path: Path) -> MiniSemanticSam:
    """The network of a file, fp32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: it is no trained Semantic-SAM, or its tensors do not fit.
    """
    from wsi_pipeline.models.checkpoints import load_into, read_state_dict
    from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam

    settings, state = SemanticFacts.read(path).settings, read_state_dict(path)
    early = state[_EARLY].shape[1] if _EARLY in state else 1
    network = MiniSemanticSam(settings, early)
    load_into(network, state, where=path)
    return network
