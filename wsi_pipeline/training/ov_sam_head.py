"""The trainable part of Open-Vocabulary SAM on a shared encoder: what names regions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.ov_sam.region_head import KIND, RegionFacts, RegionHead, load_region_head
from wsi_pipeline.models.resolve import WeightPlan, sam_plan
from wsi_pipeline.models.text import class_scores, class_vectors
from wsi_pipeline.models.weights import locate
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.judging import BY_NAMES
from wsi_pipeline.training.ov_sam_batches import RegionBatch, RegionBatches
from wsi_pipeline.training.ov_sam_loss import class_loss
from wsi_pipeline.training.recipe import OvSamRecipe
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.workflow import ModelSettings


class OvSamHead(Head[RegionBatch]):
    """The region head; without weights to start from it begins at random, the same for the same seed."""

    kind = KIND
    judgement = BY_NAMES
    module: RegionHead
    _recipe: OvSamRecipe

    def __init__(self, recipe: OvSamRecipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        self.plan = sam_plan(ModelSettings(model="sam", backbone=recipe.backbone), section="recipe")
        self._sam = load_sam(self.plan)
        self._words = _locked_words(recipe, device)
        facts = RegionFacts(
            classes=recipe.vocabulary.classes,
            backbone=recipe.backbone,
            early_channels=self._sam.image_encoder.early_channels,
            context_factor=recipe.seen_factor,
            text=recipe.text,
            dim=recipe.dim if self._words is None else self._words.shape[-1],
        )
        self.module = self._head(facts).to(device)
        self.trained = dict(self.module.named_parameters())

    def _head(self, facts: RegionFacts) -> RegionHead:
        weights = self._recipe.weights
        if weights is None:
            with seeded(self._recipe.seed, torch.device("cpu")):
                return RegionHead(facts)
        path = locate(weights)
        head = load_region_head(path)
        if head.facts != facts:
            fix = "Set the recipe's keys to fit"
            raise TrainingError(f"is for {head.facts!r}, not {facts!r}", where=path, fix=fix)
        self.plan = WeightPlan(self.plan.backbone, {**self.plan.files, KIND: path})
        return head

    def metadata(self) -> dict[str, str]:
        return self.module.facts.metadata()

    def batches(self, source: Joined, embeddings: Path) -> RegionBatches:
        """Batches of samples; without weights to start from, their features become the measure of all others."""
        features = FrozenFeatures.of(self._sam, embeddings, self._device)
        batches = RegionBatches(self._recipe, source, features, self._device)
        if self._recipe.weights is None:
            _measure(self.module, batches.first_seen())
        return batches

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        # a run that goes on knows parameters only, and would measure anew
        self.module.norm.eval()

    def loss(self, part: RegionBatch) -> Tensor:
        """The published loss of each class that is shown, and their mean: a nucleus counts no more than a gland."""
        # a run that goes on has to drop the same channels as one that was not stopped
        with seeded(part.seed, self._device):
            logits = self.logits(part.features)
        with_none = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
        rows = [part.classes == one for one in part.classes.unique()]
        return torch.stack([class_loss(with_none[row], part.classes[row]) for row in rows]).mean()

    def scores(self, part: RegionBatch) -> Tensor:
        """(2, N) numbers of the true and of the said class."""
        return torch.stack([part.classes, self.logits(part.features).argmax(dim=1)])

    def logits(self, features: Tensor) -> Tensor:
        """(N, K) of regions (N, C, g, g)."""
        words = self.module.classes() if self._words is None else self._words
        return class_scores(self.module(features), words, 1.0) * self.module.scale


def _locked_words(recipe: OvSamRecipe, device: torch.device) -> Tensor | None:
    """(K, P, D) vectors of the classes, or None where they are learned."""
    if recipe.text == "table":
        return None
    from wsi_pipeline.models.image_text.minilm import MiniLm

    # tensors made for inference cannot take part in a gradient, copies can
    return class_vectors(MiniLm(), recipe.vocabulary).clone().to(device)


@torch.no_grad()
def _measure(head: RegionHead, seen: Iterable[Tensor]) -> None:
    """Set what channels are normalised by to their mean and variance over regions.

    Raises:
        TrainingError: there are none.
    """
    count, first, second = 0, torch.zeros(()), torch.zeros(())
    for features in seen:
        values = features.double().cpu()
        count += values[:, 0].numel()
        first, second = first + values.sum((0, 2, 3)), second + values.square().sum((0, 2, 3))
    if not count:
        fix = "Check the data and classes, or lower min_object"
        raise TrainingError("no sample shows an object of these classes", where="train", fix=fix)
    mean = first / count
    head.norm.load_state_dict(
        head.norm.state_dict() | {"running_mean": mean, "running_var": second / count - mean.square()}
    )
