"""LoRA-SAM in training: an adapter and heads, with gradients through the encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.builders import load_lora_sam, load_sam
from wsi_pipeline.models.lora_sam.box_heads import Truth
from wsi_pipeline.models.lora_sam.build import build_lora_sam
from wsi_pipeline.models.lora_sam.domain_decoder import DomainDecoderLoraSam
from wsi_pipeline.models.lora_sam.file import KIND, Facts, state_of
from wsi_pipeline.models.lora_sam.model import LoraSam
from wsi_pipeline.models.lora_sam.settings import LoraSamSettings
from wsi_pipeline.models.resolve import lora_sam_plan, sam_plan
from wsi_pipeline.models.roles import objects_on_patch
from wsi_pipeline.training.boundary import boundary_iou, mask_iou
from wsi_pipeline.training.domain_head import start_decoder
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.lora_batches import PatchBatch, PatchBatches
from wsi_pipeline.training.lora_loss import lora_losses
from wsi_pipeline.training.recipe import LoraRecipe
from wsi_pipeline.training.recompute import recompute_blocks
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.workflow import ModelSettings

MIN_SCORE, MOST, MARGIN = 0.5, 300, 0.5
"""What epochs are judged by: objects as a workflow with default settings finds them."""


class LoraHead(Head[PatchBatch]):
    """Adapter, pyramid and heads; without weights to start from they begin at random, the same for the same seed."""

    kind = KIND
    module: LoraSam
    _recipe: LoraRecipe

    def __init__(self, recipe: LoraRecipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        settings = LoraSamSettings(**recipe.lora.model_dump(), classes=recipe.classes)
        self.module = self._model(settings).to(device)
        if recipe.recompute:
            recompute_blocks(self.module.image_encoder)
        self.trained = {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    def _model(self, settings: LoraSamSettings) -> LoraSam:
        recipe = self._recipe
        if recipe.weights is None:
            self.plan = sam_plan(ModelSettings(model="sam", backbone=recipe.backbone), section="recipe")
            with seeded(recipe.seed, torch.device("cpu")):
                model = build_lora_sam(load_sam(self.plan), settings)
            if recipe.decoder is not None:
                self._take_decoder(model, recipe.decoder)
            return model
        start = ModelSettings(model="lora-sam", backbone=recipe.backbone, weights=recipe.weights)
        self.plan = lora_sam_plan(start, section="recipe")
        model = load_lora_sam(self.plan)
        if model.settings != settings:
            fix = "Set lora and classes of the recipe to those of the file"
            raise TrainingError("has other parts than the recipe", where=recipe.weights, fix=fix)
        return model

    def _take_decoder(self, model: LoraSam, decoder: str) -> None:
        """Put a trained decoder in the place of the random one."""
        assert isinstance(model, DomainDecoderLoraSam)
        facts = model.head.facts.model_copy(update={"backbone": self._recipe.backbone})
        model.head, self.plan = start_decoder(decoder, facts, self.plan)

    def tensors(self) -> dict[str, Tensor]:
        return state_of(self.module)

    def metadata(self) -> dict[str, str]:
        return Facts(self._recipe.backbone, self.module.settings).metadata()

    def batches(self, source: Joined, embeddings: Path) -> PatchBatches:
        """Batches of samples; the folder stays empty, as the encoder changes."""
        return PatchBatches(self._recipe, source, self._device)

    def loss(self, part: PatchBatch) -> Tensor:
        # a run that goes on has to draw the same examples as one that was not stopped
        with seeded(part.seed, self._device):
            most, dice = self._recipe.objects, self._recipe.mask_dice
            losses = lora_losses(self.module, part.pixels, part.truths, most=most, dice=dice)
        return torch.stack(list(losses.values())).sum()

    def scores(self, part: PatchBatch) -> Tensor:
        """(2, N) Dice and boundary IoU of the objects, and 0 for each that is found where there is none.

        A found object stands for the true one with which all together overlap most; true objects that nobody stands
        for count 0, too.
        """
        found = self.module.instances(self.module.encode(part.pixels), min_score=MIN_SCORE, most=MOST, margin=MARGIN)
        scores = [
            _scores(torch.from_numpy(objects_on_patch(groups, self.module.size)[0]).to(self._device), truth)
            for groups, truth in zip(found, part.truths, strict=True)
        ]
        return torch.cat(scores, dim=1)


def _scores(found: Tensor, truth: Truth) -> Tensor:
    """``LoraHead.scores`` of one image whose found masks are (n, S, S)."""
    seen = found & truth.known
    # what lies mostly where nobody annotated is neither right nor wrong
    seen = seen[2 * seen.sum((1, 2)) > found.sum((1, 2))]
    common = truth.masks.flatten(1).float() @ seen.flatten(1).float().T
    union = truth.masks.sum((1, 2))[:, None] + seen.sum((1, 2)) - common
    iou = common / union
    rows, columns = linear_sum_assignment(iou.cpu().numpy(), maximize=True)
    matched = iou[rows, columns] > 0
    rows, columns = rows[matched.cpu().numpy()], columns[matched.cpu().numpy()]
    score = torch.zeros(2, len(truth.masks) + len(seen) - len(rows), device=found.device)
    pairs = seen[columns], truth.masks[rows]
    overlap = mask_iou(*pairs)
    score[:, rows] = torch.stack([2 * overlap / (1 + overlap), boundary_iou(*pairs)])
    return score
