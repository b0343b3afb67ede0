"""The file of a small Semantic-SAM: its tensors as safetensors, what they are in its metadata; no backbone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.granularity import LEVELS
from wsi_pipeline.models.head_prompts import prompts_metadata
from wsi_pipeline.models.semantic_sam.settings import SemanticSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam

KIND = "semantic-sam"
PROMPTS = frozenset({"box", "point"})
"""What it can be asked, whatever its backbone can."""
_EARLY = "early.0.weight"


@dataclass(frozen=True, slots=True)
class SemanticFacts:
    """What a file says about itself.

    Attributes:
        backbone: name of the backbone it was trained on.
        settings: sizes and names.
        levels: the number of the answer that is of level 1, the coarsest, to 6.
    """

    backbone: str
    settings: SemanticSettings
    levels: tuple[int, ...]

    def metadata(self) -> dict[str, str]:
        """As it is written."""
        return {
            "kind": KIND,
            "backbone": self.backbone,
            "settings": self.settings.model_dump_json(),
            "levels": json.dumps(self.levels),
        } | prompts_metadata(PROMPTS)


def read_facts(path: Path) -> SemanticFacts:
    """Read what a file is, without its tensors.

    Raises:
        WeightsError: it is no trained Semantic-SAM.
    """
    from wsi_pipeline.models.checkpoints import read_metadata

    try:
        found = read_metadata(path)
        levels = tuple(json.loads(found["levels"]))
        if found["kind"] != KIND or sorted(levels) != list(range(LEVELS)):
            raise KeyError(KIND)
        return SemanticFacts(found["backbone"], SemanticSettings.model_validate_json(found["settings"]), levels)
    except (KeyError, ValueError, TypeError):
        fix = "Give the semantic-sam.safetensors that `wsi-pipeline train semantic-sam` wrote, or a published .pth"
        raise WeightsError("is no trained Semantic-SAM", where=path, fix=fix) from None


def load_semantic_sam(path: Path) -> MiniSemanticSam:
    """The network of a file, fp32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: it is no trained Semantic-SAM, or its tensors do not fit.
    """
    from wsi_pipeline.models.checkpoints import load_into, read_state_dict
    from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam

    settings, state = read_facts(path).settings, read_state_dict(path)
    early = state[_EARLY].shape[1] if _EARLY in state else 1
    network = MiniSemanticSam(settings, early)
    load_into(network, state, where=path)
    return network
