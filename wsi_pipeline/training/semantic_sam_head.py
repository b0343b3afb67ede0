"""The small Semantic-SAM in training, on a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.resolve import WeightPlan, sam_plan
from wsi_pipeline.models.semantic_sam.answers import Answers
from wsi_pipeline.models.semantic_sam.file import KIND, SemanticFacts, load_semantic_sam
from wsi_pipeline.models.semantic_sam.mini import MiniSemanticSam
from wsi_pipeline.models.weights import locate
from wsi_pipeline.training.boundary import mask_iou
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.judging import Judgement
from wsi_pipeline.training.losses import INSIDE
from wsi_pipeline.training.many_to_many import Targets
from wsi_pipeline.training.point_sampling import PointSampling
from wsi_pipeline.training.semantic_sam_batches import LevelBatch, SemanticBatches
from wsi_pipeline.training.semantic_sam_loss import semantic_losses
from wsi_pipeline.training.semantic_sam_recipe import SemanticRecipe
from wsi_pipeline.training.sources import TRAIN, Joined
from wsi_pipeline.workflow import ModelSettings

HIT = 0.75
"""IoU from which on an answer counts as one of the true masks."""
_ENOUGH = 24
"""Samples that tell which of the six answers is how coarse: each of them has many clicks."""


def _summary(scores: Sequence[Tensor]) -> Tensor:
    """Means over samples; how far the mean quality is from the mean Dice of the same answers is turned round, so that
    more is better for all."""
    best, hit, said, dice = torch.stack([one.mean(dim=1) for one in scores]).mean(dim=0)
    return torch.stack([best, hit, 1 - (said - dice).abs().clamp(max=1)])


BY_GRANULARITY = Judgement(
    ("best_iou", "recall", "calibration"),
    "best_iou",
    _summary,
    "of the true masks around clicks on {split} samples: the IoU of the best of six answers, the share hit with an"
    f" IoU of {HIT}, and 1 - |predicted - true Dice| of these answers",
)
"""Scores are IoU, hit, predicted quality and Dice of the answer that is nearest to each true mask."""


class SemanticHead(Head[LevelBatch]):
    """The network; without weights to start from it begins at random, the same for the same seed."""

    kind = KIND
    judgement = BY_GRANULARITY
    module: MiniSemanticSam
    _recipe: SemanticRecipe

    def __init__(self, recipe: SemanticRecipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        self.plan = sam_plan(ModelSettings(model="sam", backbone=recipe.backbone), section="recipe")
        self._sam = load_sam(self.plan)
        self.module = self._network().to(device)
        self.trained = dict(self.module.named_parameters())
        self._sampling = PointSampling(recipe.points)

    def _network(self) -> MiniSemanticSam:
        recipe = self._recipe
        if recipe.weights is None:
            with seeded(recipe.seed, torch.device("cpu")):
                return MiniSemanticSam(recipe.network, self._sam.image_encoder.early_channels)
        path = locate(recipe.weights)
        network = load_semantic_sam(path)
        if network.settings != recipe.network:
            fix = "Set network of the recipe to that of the file"
            raise TrainingError(f"is for {network.settings!r}, not {recipe.network!r}", where=path, fix=fix)
        self.plan = WeightPlan(self.plan.backbone, {**self.plan.files, KIND: path})
        return network

    def batches(self, source: Joined, embeddings: Path) -> SemanticBatches:
        features = FrozenFeatures.of(self._sam, embeddings, self._device)
        self._batches = SemanticBatches(self._recipe, source, features, self._device)
        self._measured_on = source.numbers(source.judged_on or TRAIN)[:_ENOUGH]
        return self._batches

    def metadata(self) -> dict[str, str]:
        """What the file says; how coarse each answer is was measured on some of what epochs are judged on."""
        levels = self._levels()
        return SemanticFacts(backbone=self._recipe.backbone, settings=self.module.settings, levels=levels).metadata()

    def loss(self, part: LevelBatch) -> Tensor:
        generator = torch.Generator().manual_seed(part.seed)
        layers = self.module.decode(self.module.features(part.seen), part.boxes, part.kinds, every_layer=True)
        by_size = self._recipe.matching == "by-size"
        losses = semantic_losses(layers, part.targets, self._sampling, generator, by_size=by_size)
        return torch.stack(list(losses.values())).sum()

    def scores(self, part: LevelBatch) -> Tensor:
        """(4, T) IoU, hit, predicted quality and Dice of the answer that is nearest to each target."""
        answers = self._last(part)
        iou, token = overlaps(answers, part.targets).max(dim=1)
        said = answers.quality.flatten(0, 1)[part.targets.click, token]
        return torch.stack([iou, (iou >= HIT).float(), said, 2 * iou / (1 + iou)])

    def _last(self, part: LevelBatch) -> Answers:
        return self.module.decode(self.module.features(part.seen), part.boxes, part.kinds)[-1]

    @torch.no_grad()
    def _levels(self) -> tuple[int, ...]:
        """The numbers of the six answers, that with the largest masks first."""
        self.module.eval()
        parts = (part for number in self._measured_on for part in self._batches.validation(number))
        areas = [areas_of(self._last(part)) for part in parts]
        return tuple(torch.cat(areas).mean(dim=0).argsort(descending=True).tolist())


def overlaps(answers: Answers, targets: Targets) -> Tensor:
    """(T, 6) IoU of each target with the answers to its click, at the px of the target, as far as they are known."""
    assert answers.masks is not None
    masks = answers.masks.flatten(0, 1)
    drawn = F.interpolate(masks.float(), targets.masks.shape[-2:], mode="bilinear", align_corners=False) > 0
    known = targets.unknown[:, None] == 0
    return mask_iou(drawn[targets.click] & known, (targets.masks > INSIDE)[:, None] & known)


def areas_of(answers: Answers) -> Tensor:
    """(C, 6) share of the patch that each answer to C prompts covers."""
    assert answers.masks is not None
    return (answers.masks > 0).float().mean(dim=(-2, -1)).flatten(0, 1)
