"""The trainable part of each system: what it answers to prompts on embeddings, and what its loss makes of that.

In use HQ-SAM and WSI-SAM add SAM's mask to that of their branch; their published losses see the branch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wsi_pipeline.models.builders import load_hq_sam, load_pa_sam, load_wsi_sam
from wsi_pipeline.models.hq_decoder import HqMaskDecoder
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.mask_decoder import CellWindows, Decoded
from wsi_pipeline.models.pa_sam.model import PaMasks, PaSam
from wsi_pipeline.models.prompt_embedding import PromptTensors, embed_prompts
from wsi_pipeline.models.resolve import hq_sam_plan, pa_sam_plan, wsi_sam_plan
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.wsi_sam import DualDecoder
from wsi_pipeline.training.domain_head import DomainHead
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.known_px import logits_where_known, sampled_loss, uncertainty_where_known
from wsi_pipeline.training.losses import pa_loss, wsi_loss
from wsi_pipeline.training.ov_sam_head import OvSamHead
from wsi_pipeline.training.prompted_batches import PromptedBatch
from wsi_pipeline.training.prompted_head import PromptedHead
from wsi_pipeline.training.recipe import HqRecipe, LoraRecipe, PaRecipe, SamClipRecipe, WsiRecipe
from wsi_pipeline.training.sapnet_recipe import SapNetRecipe
from wsi_pipeline.training.semantic_sam_head import SemanticHead


class _Branch(NamedTuple):
    """What one decoder with the high-quality branch makes of its patch and prompts."""

    decoder: HqMaskDecoder
    decoded: Decoded
    features: Tensor

    @classmethod
    def of(cls, decoder: HqMaskDecoder, sam: Sam, seen: EncoderOutput, prompts: PromptTensors) -> _Branch:
        embedded = embed_prompts(sam.prompt_encoder, prompts)
        position = sam.prompt_encoder.get_dense_pe()[0]
        image = decoder.image_side(seen.embedding, position, embedded.dense)
        return cls(decoder, decoder.decode(image, embedded.sparse, embedded.padding), decoder.image_features(*seen))

    def token(self) -> Tensor:
        return self.decoder.token_vector(self.decoded)

    def draw(self, token: Tensor, windows: CellWindows | None, *, alone: bool) -> Tensor:
        """(B, P, 256, 256) logits, or fewer in windows, alone or with SAM's mask added."""
        masks, _ = self.decoder.draw(self.decoded, self.features, token, windows=windows, hq_token_only=alone)
        return masks.squeeze(2)


class HqHead(PromptedHead):
    """HQ-SAM's decoder."""

    kind = "hq-decoder"
    module: HqMaskDecoder
    _recipe: HqRecipe

    def _load(self) -> None:
        self.margin = self._recipe.window_margin
        self.plan = hq_sam_plan(self._recipe.model, section="recipe")
        model = load_hq_sam(self.plan)
        self.sam, self.module = model, model.mask_decoder

    def loss(self, part: PromptedBatch) -> Tensor:
        logits = self._draw(part, alone=not self._recipe.with_sam_mask)
        return sampled_loss(logits, part.batch.high.within(part.windows.high), part.generator).total()

    def answer(self, part: PromptedBatch) -> Tensor:
        return self._draw(part, alone=False)

    def _draw(self, part: PromptedBatch, *, alone: bool) -> Tensor:
        branch = _Branch.of(self.module, self.sam, part.batch.high.seen, part.asked.high)
        return branch.draw(branch.token(), part.windows.high, alone=alone)


class WsiHead(PromptedHead):
    """Both decoders of WSI-SAM; in training the low one draws masks, too."""

    kind = "wsi-heads"
    pairs = True
    module: DualDecoder
    _recipe: WsiRecipe

    def _load(self) -> None:
        recipe = self._recipe
        self.margin = recipe.window_margin
        self.plan = wsi_sam_plan(recipe.model, section="recipe")
        model = load_wsi_sam(self.plan)
        if recipe.hq_head is not None:
            settings = recipe.model.model_copy(update={"model": "hq-sam", "weights": recipe.hq_head})
            plan = hq_sam_plan(settings, section="recipe")
            model.high, model.low = (load_hq_sam(plan).mask_decoder for _ in range(2))
            model.low.add_nothing()
            self.plan = plan
        self.sam, self.module = model.sam, DualDecoder(model.high, model.low)

    def loss(self, part: PromptedBatch) -> Tensor:
        high, low = self._branches(part)
        batch, windows = part.batch, part.windows
        assert batch.low is not None
        token, alone = high.token() + low.token(), not self._recipe.with_sam_mask
        near, far = batch.high.within(windows.high), batch.low.within(windows.low)
        return wsi_loss(
            logits_where_known(high.draw(token, windows.high, alone=alone), near),
            logits_where_known(low.draw(token, windows.low, alone=alone), far),
            near.targets,
            far.targets,
        ).total()

    def answer(self, part: PromptedBatch) -> Tensor:
        high, low = self._branches(part)
        return high.draw(high.token() + low.token(), part.windows.high, alone=False)

    def _branches(self, part: PromptedBatch) -> tuple[_Branch, _Branch]:
        batch, asked = part.batch, part.asked
        assert batch.low is not None
        return (
            _Branch.of(self.module.high, self.sam, batch.high.seen, asked.high),
            _Branch.of(self.module.low, self.sam, batch.low.seen, asked.low),
        )


class PaHead(PromptedHead):
    """PA-SAM's decoder; of SAM's tensors it changes those that draw the mask."""

    kind = "pa-decoder"
    also_own = ("output_upscaling.", "output_hypernetworks_mlps.", "mask_tokens.")
    sam: PaSam
    _recipe: PaRecipe

    def _load(self) -> None:
        self.plan = pa_sam_plan(self._recipe.model, section="recipe")
        self.sam = load_pa_sam(self.plan)
        self.sam.edges = self._recipe.edges
        self.module = self.sam.mask_decoder

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        self.sam.mask_decoder.prompt_adapter.mining = epoch > self._recipe.mine_after

    def loss(self, part: PromptedBatch) -> Tensor:
        drawn, view = self._segment(part, part.generator), part.batch.high
        return pa_loss(
            logits_where_known(drawn.masks, view),
            logits_where_known(drawn.maps.coarse, view),
            logits_where_known(drawn.maps.refined, view),
            uncertainty_where_known(drawn.maps.uncertainty, view),
            view.targets,
        ).total()

    def answer(self, part: PromptedBatch) -> Tensor:
        return self._segment(part, None).masks

    def _segment(self, part: PromptedBatch, generator: torch.Generator | None) -> PaMasks:
        guide = self.sam.guide(part.batch.pixels)
        return self.sam.segment(part.batch.high.seen.embedding, guide, part.asked.high, generator=generator)


def _lora_head(recipe: LoraRecipe, device: torch.device) -> Head[Any]:
    # it takes the library of adapters seconds to be imported
    from wsi_pipeline.training.lora_head import LoraHead

    return LoraHead(recipe, device)


def _sam_clip_head(recipe: SamClipRecipe, device: torch.device) -> Head[Any]:
    # its teachers' libraries take seconds to be imported
    from wsi_pipeline.training.sam_clip_head import SamClipHead

    return SamClipHead(recipe, device)


def _sapnet_head(recipe: SapNetRecipe, device: torch.device) -> Head[Any]:
    # pooling boxes takes torchvision, which takes seconds to be imported
    from wsi_pipeline.training.sapnet_head import SapNetHead

    return SapNetHead(recipe, device)


HEADS: dict[str, Callable[[Any, torch.device], Head[Any]]] = {
    "hq-sam": HqHead,
    "wsi-sam": WsiHead,
    "pa-sam": PaHead,
    "domain-decoder": DomainHead,
    "lora-sam": _lora_head,
    "ov-sam": OvSamHead,
    "sam-clip": _sam_clip_head,
    "sapnet": _sapnet_head,
    "semantic-sam": SemanticHead,
}
