"""The network that some settings mean."""

from __future__ import annotations

from wsi_pipeline.models.lora_sam.domain_decoder import DomainDecoderLoraSam
from wsi_pipeline.models.lora_sam.instance import InstanceLoraSam
from wsi_pipeline.models.lora_sam.model import LoraSam
from wsi_pipeline.models.lora_sam.prompted import PromptedLoraSam
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.sam import Sam

_ROUTES: dict[str, type[LoraSam]] = {
    "anchor-prompter": PromptedLoraSam,
    "instance": InstanceLoraSam,
    "domain-decoder": DomainDecoderLoraSam,
}


def build_lora_sam(sam: Sam, settings: LoraSamSettings) -> LoraSam:
    """The network of some settings on a backbone, whose modules become parts of it; new parts have random weights.

    Raises:
        WorkflowError: as ``LoraSam``.
    """
    return _ROUTES[settings.route](sam, settings).eval()
