"""The trainable part of the domain decoder, and what its loss makes of maps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.domain_decoder.decoder import (
    KIND,
    DecoderFacts,
    DomainDecoder,
    DomainMaps,
    load_domain_decoder,
)
from wsi_pipeline.models.resolve import WeightPlan, sam_plan
from wsi_pipeline.models.weights import locate
from wsi_pipeline.training.boundary import boundary_iou, mask_iou
from wsi_pipeline.training.domain_batches import DomainBatch, DomainBatches, Target
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.losses import INSIDE, mask_loss
from wsi_pipeline.training.recipe import DomainRecipe
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.workflow import ModelSettings

_SMOOTH_L1_BETA = 0.1
"""Error of the distance up to which smooth L1 is a parabola."""
_DISTANCE_WEIGHT = 8.0
"""Weight of the distances' error, which is small as most px are background; with 1, touching nuclei grow together."""


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
            recipe.classes,
            recipe.backbone,
            self._sam.image_encoder.early_channels,
            recipe.context_factor if recipe.low_patch else None,
        )
        self.module = self._decoder(facts).to(device)
        self.trained = dict(self.module.named_parameters())

    def _decoder(self, facts: DecoderFacts) -> DomainDecoder:
        if self._recipe.weights is None:
            with seeded(self._recipe.seed, torch.device("cpu")):
                return DomainDecoder(facts)
        path = locate(self._recipe.weights)
        decoder = load_domain_decoder(path)
        if decoder.facts != facts:
            raise TrainingError(f"is for {decoder.facts}, not {facts}", where=path, fix="Set the recipe's keys to fit")
        self.plan = WeightPlan(self.plan.backbone, {**self.plan.files, KIND: path})
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


def domain_loss(maps: DomainMaps, target: Target) -> Tensor:
    """Binary cross entropy and Dice of the masks and smooth L1 of the distances, a scalar; known px count alone."""
    known = target.known.flatten(2)
    error = F.smooth_l1_loss(maps.distances, target.distances, beta=_SMOOTH_L1_BETA, reduction="none").flatten(2)
    distance = (error * known).sum(-1) / known.sum(-1).clamp(min=1)
    masks = mask_loss(maps.masks.flatten(2), target.masks.flatten(2), where=known).total()
    return masks + _DISTANCE_WEIGHT * distance.mean()
