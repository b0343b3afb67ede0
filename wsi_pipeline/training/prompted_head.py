"""What heads that answer prompts have in common: a mask decoder on a frozen backbone, some parameters of it trained."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.head_prompts import prompts_metadata
from wsi_pipeline.models.hq_decoder import HqMaskDecoder
from wsi_pipeline.models.mask_decoder import MaskDecoder
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.training.boundary import EVALUATION_WIDTH, boundary_iou, mask_iou
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.losses import INSIDE
from wsi_pipeline.training.prompted_batches import PromptedBatch, PromptedBatches
from wsi_pipeline.training.recipe import PromptedRecipe
from wsi_pipeline.training.sources import Joined


class PromptedHead(Head[PromptedBatch]):
    """A mask decoder on a frozen backbone; what no file fills starts as the backbone's own decoder.

    Attributes:
        sam: the backbone; its image encoder is not moved to the device.
        also_own: beginnings of SAM's keys that the published training changes, too.
        pairs: whether it looks at low patches.
        margin: share of a box by which the windows reach beyond it that masks are drawn in; None: whole patches.
    """

    pairs: ClassVar[bool] = False
    margin: float | None = None
    also_own: ClassVar[tuple[str, ...]] = ()

    sam: Sam
    _recipe: PromptedRecipe

    def __init__(self, recipe: PromptedRecipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        self._load()
        for decoder in self.module.modules():
            if isinstance(decoder, HqMaskDecoder) and not decoder.extra_tokens_visible:
                _blend_in(decoder)
        self.module.to(device)
        self.sam.prompt_encoder.to(device)
        self.sam.requires_grad_(False)
        self.module.requires_grad_(False)
        names = [name for name, _ in self.module.named_parameters() if self._is_trained(name)]
        self.trained = {name: self.module.get_parameter(name) for name in names}
        for parameter in self.trained.values():
            parameter.requires_grad_()

    @abstractmethod
    def _load(self) -> None:
        """Set ``sam``, ``module`` and ``plan``."""

    @abstractmethod
    def answer(self, part: PromptedBatch) -> Tensor:
        """(B, P, 256, 256) float32 logits on the high patches, as in use, or fewer in the prompts' windows."""

    def batches(self, source: Joined, embeddings: Path) -> PromptedBatches:
        features = FrozenFeatures.of(self.sam, embeddings, self._device)
        return PromptedBatches(self._recipe, source, features, self._device, pairs=self.pairs, margin=self.margin)

    def scores(self, part: PromptedBatch) -> Tensor:
        view = part.batch.high.within(part.windows.high)
        logits, side = self.answer(part), view.targets.shape[-1]
        large = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        predicted, target = (large > 0) & view.known, view.targets > INSIDE
        iou = mask_iou(predicted, target)
        # boundaries are as wide as on the whole patch
        width = EVALUATION_WIDTH * part.batch.high.targets.shape[-1] / side
        return torch.stack([2 * iou / (1 + iou), boundary_iou(predicted, target, width)]).flatten(1)

    def metadata(self) -> dict[str, str]:
        return prompts_metadata(self._recipe.prompts.kinds)

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
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
