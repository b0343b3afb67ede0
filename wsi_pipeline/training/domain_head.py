"""The trainable part of the domain decoder, and what its loss makes of maps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.domain_decoder.decoder import (
    KIND,
    DecoderFacts,
    DomainDecoder,
    load_domain_decoder,
)
from wsi_pipeline.models.resolve import WeightPlan, sam_plan
from wsi_pipeline.models.weights import locate
from wsi_pipeline.training.boundary import boundary_iou, mask_iou
from wsi_pipeline.training.domain_batches import DomainBatch, DomainBatches
from wsi_pipeline.training.domain_loss import domain_loss
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.losses import INSIDE
from wsi_pipeline.training.recipe import DomainRecipe
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.workflow import ModelSettings


class DomainHead(Head[DomainBatch]):
    """The decoder; without weights to start from it begins at random, the same for the same seed."""

    kind = KIND
    module: DomainDecoder
    _recipe: DomainRecipe

    def __init__(self, recipe: DomainRecipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        self.plan = sam_plan(ModelSettings(model="sam", backbone=recipe.backbone), section="recipe")
        self._sam = load_sam(self.plan)
        facts = DecoderFacts(
            classes=recipe.classes,
            backbone=recipe.backbone,
            early_channels=self._sam.image_encoder.early_channels,
            context_factor=recipe.context_factor if recipe.low_patch else None,
        )
        self.module = self._decoder(facts).to(device)
        self.trained = dict(self.module.named_parameters())

    def _decoder(self, facts: DecoderFacts) -> DomainDecoder:
        if self._recipe.weights is None:
            with seeded(self._recipe.seed, torch.device("cpu")):
                return DomainDecoder(facts)
        decoder, self.plan = start_decoder(self._recipe.weights, facts, self.plan)
        return decoder

    def metadata(self) -> dict[str, str]:
        return self.module.facts.metadata()

    def batches(self, source: Joined, embeddings: Path) -> DomainBatches:
        features = FrozenFeatures.of(self._sam, embeddings, self._device)
        return DomainBatches(self._recipe, source, features, self._device)

    def loss(self, part: DomainBatch) -> Tensor:
        # a run that goes on has to drop the same channels as one that was not stopped
        with seeded(part.seed, self._device):
            maps = self.module(part.high, part.low)
        return domain_loss(maps, part.target)

    def scores(self, part: DomainBatch) -> Tensor:
        """(2, N) Dice and boundary IoU of the foreground of N pairs of a patch and a class annotated on it."""
        target = part.target
        predicted = (self.module(part.high, part.low).masks > 0) & target.known
        truth = (target.masks > INSIDE) & target.known
        iou = mask_iou(predicted, truth)
        annotated = target.known.any(-1).any(-1)
        return torch.stack([2 * iou / (1 + iou), boundary_iou(predicted, truth)])[:, annotated]


def start_decoder(weights: str, facts: DecoderFacts, plan: WeightPlan) -> tuple[DomainDecoder, WeightPlan]:
    """A trained decoder that training goes on from, and the plan with its file.

    Raises:
        WeightsError: the file cannot be read, or is of something else.
        TrainingError: it was trained for something else than ``facts`` say.
    """
    path = locate(weights)
    decoder = load_domain_decoder(path)
    if decoder.facts != facts:
        raise TrainingError(f"is for {decoder.facts}, not {facts}", where=path, fix="Set the recipe's keys to fit")
    return decoder, WeightPlan(plan.backbone, {**plan.files, KIND: path})
