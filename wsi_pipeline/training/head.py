"""What heads of all systems have in common: a decoder on a frozen backbone, some parameters of which are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from wsi_pipeline.models.hq_decoder import HqMaskDecoder
from wsi_pipeline.models.mask_decoder import MaskDecoder
from wsi_pipeline.models.prompt_embedding import PromptTensors
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.training.batches import Batch
from wsi_pipeline.training.recipe import Recipe


class Asked(NamedTuple):
    """The same (B, P) prompts in the frames of both patches."""

    high: PromptTensors
    low: PromptTensors


class Head(ABC):
    """A mask decoder on a frozen backbone, fp32; what no file fills starts as the backbone's own decoder.

    Args:
        recipe: what to start from and what to train.
        device: where.

    Attributes:
        sam: the backbone; its image encoder is not moved to the device.
        module: the decoder; the keys of its state dict are those of the published file.
        trained: the parameters that are trained, by key.
        plan: the files it was made of.
    """

    pairs: ClassVar[bool] = False
    kind: ClassVar[str]
    also_own: ClassVar[tuple[str, ...]] = ()
    """Beginnings of SAM's keys that the published training changes, too."""

    sam: Sam
    module: nn.Module
    plan: WeightPlan

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._recipe = recipe
        self._load(recipe)
        for decoder in self.module.modules():
            if isinstance(decoder, HqMaskDecoder) and not decoder.extra_tokens_visible:
                _blend_in(decoder)
        self.module.to(device)
        self.sam.prompt_encoder.to(device)
        self.sam.requires_grad_(False)
        self.module.requires_grad_(False)
        names = [name for name, _ in self.module.named_parameters() if self._is_trained(name)]
        self.trained = {name: self.module.get_parameter(name).requires_grad_() for name in names}

    @abstractmethod
    def _load(self, recipe: Recipe) -> None:
        """Set ``sam``, ``module`` and ``plan``."""

    @abstractmethod
    def loss(self, batch: Batch, asked: Asked, generator: torch.Generator) -> Tensor:
        """The loss, a scalar; px that nobody knows do not change it."""

    @abstractmethod
    def answer(self, batch: Batch, asked: Asked) -> Tensor:
        """(B, P, 256, 256) float32 logits on the high patches, as in use."""

    def begin(self, epoch: int) -> None:
        """Get ready to train the epoch of that number, the first being 1."""
        self.module.train()
        for decoder in self.module.modules():
            if isinstance(decoder, MaskDecoder):
                # an untrained token is hidden, but whoever loads the file will see it
                decoder.extra_tokens_visible = True

    def _is_trained(self, name: str) -> bool:
        own = name.removeprefix("high.").removeprefix("low.")
        return self._recipe.trained == "decoder" or own not in _sam_keys() or own.startswith(self.also_own)


@torch.no_grad()
def _blend_in(decoder: HqMaskDecoder) -> None:
    """Make an untrained token a copy of the one for SAM's single mask.

    In use the token is seen by SAM's tokens. A random one disturbs them so much that LiteMedSAM loses a sixth of its
    boundary IoU before training begins; a copy costs nothing.
    """
    decoder.hf_token.weight.copy_(decoder.mask_tokens.weight[:1])


def _sam_keys() -> frozenset[str]:
    with torch.device("meta"):
        return frozenset(MaskDecoder().state_dict())
