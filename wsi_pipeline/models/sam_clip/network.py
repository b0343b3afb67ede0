"""The network: a SAM, and a head that reads its encoder in the terms of a text encoder."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from wsi_pipeline.models.checkpoints import State, load_into, read_state_dict
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.sam import Sam, Variant, find_variant
from wsi_pipeline.models.sam_clip.facts import KIND, ClipFacts
from wsi_pipeline.models.sam_clip.head import ClipHead, Meaning
from wsi_pipeline.models.sam_clip.sight import seeing, tokens_of, width_of

FIRST_SCALE = 1 / 0.07
"""CLIP's, of a network that nobody told its teacher's."""
_OWN = ("clip_head.", "logit_scale", "words")


class MergedSam(Sam):
    """A SAM that understands what it sees.

    Args:
        variant: of SAM.
        facts: of the head, and the classes whose words are in it.

    Attributes:
        clip_head: reads the encoder's tokens.
        logit_scale: the logarithm of what cosines are multiplied by, as in CLIP.
        words: (K, D) vectors of the classes in the file; None where there are none.
    """

    def __init__(self, variant: Variant, facts: ClipFacts) -> None:
        super().__init__(variant)
        self.facts = facts
        self.clip_head = ClipHead(width_of(self.image_encoder), **facts.shape.model_dump(), out_dim=facts.dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.words = nn.Parameter(torch.zeros(len(facts.classes), facts.dim)) if facts.classes else None

    def look(self, pixels: Tensor) -> EncoderOutput:
        """Encode pixels (B, 3, H, W) 0..255 as they are, without padding, for ``understand``.

        A plain vision transformer takes any multiple of 16 px; the decoder takes what it makes of the full size only.
        """
        output: EncoderOutput = seeing(self.image_encoder)(self.variant.pixels.apply(pixels))
        return output

    def understand(self, seen: EncoderOutput) -> Meaning:
        """What B patches mean, with (B, h, w, D) tokens; ``seen`` is what ``look`` or a shared encoder gave."""
        return self.clip_head.on_map(tokens_of(seen, self.clip_head.in_dim))

    def own_state(self) -> State:
        """What a file of the head alone holds."""
        return {key: value for key, value in self.state_dict().items() if key.startswith(_OWN)}


def load_merged_sam(plan: WeightPlan) -> MergedSam:
    """The network of a plan, fp32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: a file does not fit.
    """
    path = plan.files[KIND]
    network = MergedSam(find_variant(plan.backbone.variant), ClipFacts.read(path))
    sam = read_state_dict(plan.files["sam"]) if "sam" in plan.files else {}
    load_into(network, sam | read_state_dict(path), where=path)
    return network


def start_from_sam(plan: WeightPlan, facts: ClipFacts) -> MergedSam:
    """A network with the SAM of a plan and a head with random weights, in evaluation mode.

    Raises:
        WeightsError: the file does not fit.
    """
    network = MergedSam(find_variant(plan.backbone.variant), facts)
    load_into(network, network.own_state() | read_state_dict(plan.files["sam"]), where=plan.files["sam"])
    return network


def sam_state(path: Path) -> State:
    """What of a file is SAM's: all but the head of SAM-CLIP.

    Raises:
        WeightsError: the file cannot be read.
    """
    return {key: value for key, value in read_state_dict(path).items() if not key.startswith(_OWN)}
