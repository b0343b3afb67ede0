"""SAM-CLIP in training, stage by stage: what the head says of views against its teacher, and SAM against itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.image_text import ImageTextEncoder
from wsi_pipeline.models.image_text.local import image_text_weights, load_image_text
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.resolve import sam_plan
from wsi_pipeline.models.sam_clip.facts import KIND, TABLE, ClipFacts
from wsi_pipeline.models.sam_clip.network import MergedSam, load_merged_sam, start_from_sam
from wsi_pipeline.models.sam_clip.plan import sam_clip_plan
from wsi_pipeline.models.text import class_vectors
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.judging import Judgement
from wsi_pipeline.training.recipe import SamClipRecipe
from wsi_pipeline.training.sam_clip_batches import ClipBatch, ClipBatches
from wsi_pipeline.training.sam_clip_lessons import Lessons, drawn, tokens_of_views
from wsi_pipeline.training.sam_clip_loss import meaning_loss, rehearsal_loss
from wsi_pipeline.training.sources import TRAIN, Joined
from wsi_pipeline.vocabulary import VocabularySettings
from wsi_pipeline.workflow import ModelSettings


def cosines(said: Tensor, taught: Tensor, mean: Tensor) -> dict[str, float]:
    """How near vectors (N, D) of unit length are to the teacher's (N, D).

    Images of one domain have most of their vectors in common: a predictor that always says ``mean`` (D,), the
    teacher's on other images, may have a high cosine. So what is left is compared, too, of both without their own mean
    over these N: without that of other images, one that always says the mean of these would seem to know them.

    Returns:
        Means of ``cosine``, ``centred_cosine`` and ``constant_cosine``, that predictor's.
    """
    near = F.cosine_similarity(said, taught, dim=-1)
    centred = F.cosine_similarity(said - said.mean(dim=0), taught - taught.mean(dim=0), dim=-1)
    constant = F.cosine_similarity(mean.expand_as(taught), taught, dim=-1)
    means = [float(one.mean()) for one in (near, centred, constant)]
    return dict(zip(("cosine", "centred_cosine", "constant_cosine"), means, strict=True))


def _summary(scores: Sequence[Tensor]) -> Tensor:
    said, taught = torch.cat(list(scores), dim=1).T.chunk(2, dim=1)
    return torch.tensor(list(cosines(said, taught, taught.mean(dim=0)).values()), dtype=torch.float64)


BY_COSINES = Judgement(
    ("cosine", "centred_cosine", "constant_cosine"),
    "centred_cosine",
    _summary,
    "of what is said of views of {split} samples and what the teacher says: cosine, the same without their mean,"
    " and that of the mean alone",
)
"""Scores are the vectors of views, the head's above the teacher's."""


class SamClipHead(Head[ClipBatch]):
    """A stage of the network; without weights to start from the head begins at random, the same for the same seed.

    Args:
        recipe: what to start from and what to train.
        device: where.
        teacher: what to learn from; None for the recipe's.

    Raises:
        TrainingError: there is no teacher, or the weights to start from are for another head.
    """

    kind = KIND
    judgement = BY_COSINES
    module: MergedSam
    _recipe: SamClipRecipe

    def __init__(self, recipe: SamClipRecipe, device: torch.device, teacher: ImageTextEncoder | None = None) -> None:
        super().__init__(recipe, device)
        self._teacher = teacher or load_teacher(recipe, device)
        self.plan = sam_plan(ModelSettings(model="sam", backbone=recipe.backbone), section="recipe")
        if recipe.teacher is not None and teacher is None:
            self._plan_with(teacher=image_text_weights(Path(recipe.teacher).expanduser()))
        self._original = load_sam(self.plan).to(device).requires_grad_(False)
        self.module = self._network().to(device).requires_grad_(False)
        parts: list[nn.Module] = [self.module.clip_head]
        parts += [self.module.image_encoder, self.module.mask_decoder] if recipe.merging else []
        for part in parts:
            part.requires_grad_(True)
        self.trained = {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    def _network(self) -> MergedSam:
        facts, self._data = self._facts(), ""
        self._whole = self._recipe.merging
        if self._recipe.weights is None:
            with seeded(self._recipe.seed, torch.device("cpu")):
                network = start_from_sam(self.plan, facts)
            network.logit_scale.data.fill_(math.log(self._teacher.logit_scale))
            if network.words is not None:
                network.words.data.copy_(self._vectors())
            return network
        start = ModelSettings(model=KIND, backbone=self._recipe.backbone, weights=self._recipe.weights)
        plan = sam_clip_plan(start, section="recipe")
        network = load_merged_sam(plan)
        self._data = network.facts.data
        if network.facts.model_copy(update={"data": ""}) != facts:
            fix = "Set the recipe's keys to those it was trained with"
            raise TrainingError(f"is for {network.facts!r}, not {facts!r}", where=self._recipe.weights, fix=fix)
        self._whole = self._whole or "sam" not in plan.files
        self._plan_with(**plan.files)
        return network

    def _facts(self) -> ClipFacts:
        recipe, teacher = self._recipe, self._teacher
        return ClipFacts(
            backbone=recipe.backbone,
            teacher=teacher.name,
            text=TABLE if recipe.words else teacher.name,
            dim=teacher.dim,
            shape=recipe.shape,
            classes=recipe.words,
            templates=recipe.templates if teacher.reads_sentences else ("{}",),
        )

    def _vectors(self) -> Tensor:
        """(K, D): the mean of each class's words."""
        words = VocabularySettings(classes=self._recipe.words, templates=self._recipe.templates)
        return F.normalize(class_vectors(self._teacher, words).mean(dim=1), dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """The head alone where the rest is as it was."""
        return self.module.state_dict() if self._whole else self.module.own_state()

    def metadata(self) -> dict[str, str]:
        return self.module.facts.model_copy(update={"data": self._data}).metadata()

    def groups(self) -> list[dict[str, Any]]:
        """Parameters with the ``share`` of the recipe's rate that they are trained with."""
        own = [value for name, value in self.trained.items() if name.startswith("clip_head.")]
        rest = [value for name, value in self.trained.items() if not name.startswith("clip_head.")]
        groups = [{"params": own, "share": 1.0}]
        return [*groups, {"params": rest, "share": self._recipe.encoder_rate}] if rest else groups

    def batches(self, source: Joined, embeddings: Path) -> ClipBatches:
        lessons = Lessons(self._recipe, self.module, self._original, self._teacher, embeddings, self._device)
        self._sides = lessons.sides
        learned_on = Counter(source.infos[number].licence for number in source.numbers(TRAIN))
        told = ", ".join(f"{count} samples under {licence}" for licence, count in sorted(learned_on.items()))
        self._data = "; then ".join(filter(None, [self._data, f"{self._recipe.stage}: {told}"]))
        return ClipBatches(self._recipe, source, lessons, self._device)

    def begin(self, epoch: int) -> None:
        # small batches would destroy the statistics of TinyViT's batch norms
        self.module.eval()

    def loss(self, part: ClipBatch) -> Tensor:
        seen = None if part.tokens else self.module.look(part.pixels)
        pairs = zip(self._pooled(part, seen), part.vectors, strict=True)
        taught = torch.stack([meaning_loss(*one) for one in pairs]).mean()
        if seen is None or part.boxes is None or part.answers is None or not self._recipe.rehearsal:
            return taught
        masks = drawn(self.module, seen.embedding, part.boxes)
        return taught + self._recipe.rehearsal * rehearsal_loss(masks, part.answers)

    def scores(self, part: ClipBatch) -> Tensor:
        """(2 D, V * B) what is said of each view, above what the teacher says."""
        seen = None if part.tokens else self.module.look(part.pixels)
        return torch.cat([torch.cat(self._pooled(part, seen)).T, part.vectors.flatten(0, 1).T])

    def _pooled(self, part: ClipBatch, seen: EncoderOutput | None) -> list[Tensor]:
        """(B, D) of each view."""
        tokens = part.tokens
        if seen is not None:
            tokens = tokens_of_views(self.module, seen, part.pixels, part.corners, self._sides)
        return [self.module.clip_head.on_map(one).pooled for one in tokens]


def load_teacher(recipe: SamClipRecipe, device: torch.device) -> ImageTextEncoder:
    """The image-text network that a recipe names.

    Raises:
        TrainingError: it names none.
        WorkflowError, WeightsError: it cannot be used.
    """
    if recipe.teacher is None:
        fix = "Set it to a folder or checkpoint of an image-text network"
        raise TrainingError("there is nobody to learn from", where="teacher", fix=fix)
    return load_image_text(Path(recipe.teacher).expanduser(), recipe.teacher_model, device=str(device))
