"""The file of a trained LoRA-SAM: adapter and heads as safetensors, what they are in its metadata.

The backbone is not in it. Keys of the adapter begin with ``adapter.``, those of the heads with their part's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.checkpoints import State, load_into, read_metadata
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings

if TYPE_CHECKING:
    from wsi_pipeline.models.lora_sam.model import LoraSam

KIND = "lora-sam"
_ADAPTER = "adapter."


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says about itself.

    Attributes:
        backbone: name of the backbone it was trained on.
        settings: of its parts.
    """

    backbone: str
    settings: LoraSamSettings

    def metadata(self) -> dict[str, str]:
        """As it is written."""
        return {"kind": KIND, "backbone": self.backbone, "settings": self.settings.model_dump_json()}


def read_facts(path: Path) -> Facts:
    """Read what a file is, without its tensors.

    Raises:
        WeightsError: it is no trained LoRA-SAM.
    """
    try:
        found = read_metadata(path)
        if found["kind"] != KIND:
            raise KeyError(KIND)
        return Facts(found["backbone"], LoraSamSettings.model_validate_json(found["settings"]))
    except (KeyError, ValueError):
        fix = "Give the lora-sam.safetensors that `wsi-pipeline train lora-sam` wrote"
        raise WeightsError("is no trained LoRA-SAM", where=path, fix=fix) from None


def state_of(model: LoraSam) -> State:
    """The tensors of the file of a model."""
    from wsi_pipeline.models.lora_sam.lora import adapter_state

    parts = nn.ModuleDict(model.parts()).state_dict()
    if not model.settings.rank:
        return parts
    return {f"{_ADAPTER}{key}": value for key, value in adapter_state(model.image_encoder).items()} | parts


def load_state(model: LoraSam, state: Mapping[str, Tensor], *, where: object) -> None:
    """Fill a model with what ``state_of`` gave; it is in evaluation mode afterwards.

    Raises:
        WeightsError: tensors are missing, left over, of another shape or not finite.
    """
    from wsi_pipeline.models.lora_sam.lora import set_adapter_state

    adapter = {key.removeprefix(_ADAPTER): value for key, value in state.items() if key.startswith(_ADAPTER)}
    parts = {key: value for key, value in state.items() if not key.startswith(_ADAPTER)}
    load_into(nn.ModuleDict(model.parts()), parts, where=where)
    if model.settings.rank:
        set_adapter_state(model.image_encoder, adapter, where=where)
    model.eval()
