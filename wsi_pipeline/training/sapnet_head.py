"""SAPNet in training: who chooses among proposals and the instance branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.evaluation.labels import Labels
from wsi_pipeline.evaluation.metrics import Counts, ratios, score
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.preprocess import to_tensor
from wsi_pipeline.models.resolve import WeightPlan, sam_plan
from wsi_pipeline.models.roles import objects_on_patch
from wsi_pipeline.models.sapnet.backbone import ImagePyramid
from wsi_pipeline.models.sapnet.build import build_network, build_proposals, load_sapnet
from wsi_pipeline.models.sapnet.file import KIND, SapNetFacts
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.plan import proposer_files
from wsi_pipeline.models.sapnet.segmenter import instances_of
from wsi_pipeline.models.tensor_store import TensorStore
from wsi_pipeline.models.weights import locate, sha256_of
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.draws import seeded
from wsi_pipeline.training.features import FrozenFeatures
from wsi_pipeline.training.head import Head
from wsi_pipeline.training.judging import Judgement
from wsi_pipeline.training.sapnet_batches import ClickBatch, KeptProposals, SapNetBatches
from wsi_pipeline.training.sapnet_loss import sapnet_losses
from wsi_pipeline.training.sapnet_recipe import SapNetRecipe
from wsi_pipeline.training.sources import Joined
from wsi_pipeline.workflow import ModelSettings

MIN_SCORE, MOST = 0.2, 1000
"""Objects without clicks that epochs are judged by."""


def _summary(scores: Sequence[Tensor]) -> Tensor:
    counts = torch.cat(list(scores), dim=1).sum(dim=1)
    found = ratios(Counts(*counts.tolist()))
    return torch.tensor([float(found["f1"]), float(found["pq"])])


BY_OBJECTS = Judgement(
    ("f1", "pq"), "pq", _summary, "F1 of objects at IoU 0.5 and panoptic quality over all objects of {split} samples"
)
"""Scores are the columns of ``Counts``, one for each class of a sample."""


class SapNetHead(Head[ClickBatch]):
    """All but the frozen encoder; without weights to start from it begins at random, the same for the same seed.

    A network with a backbone of its own leaves that encoder to whoever proposes masks.
    """

    kind = KIND
    judgement = BY_OBJECTS
    module: SapNet
    _recipe: SapNetRecipe

    def __init__(self, recipe: SapNetRecipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        base = sam_plan(ModelSettings(model="sam", backbone=recipe.backbone), section="recipe")
        self.plan = WeightPlan(base.backbone, {**base.files, **proposer_files(recipe.facts)})
        self._sam = load_sam(base)
        self.module = self._network(recipe).to(device)
        self.trained = dict(self.module.named_parameters())

    def _network(self, recipe: SapNetRecipe) -> SapNet:
        if recipe.weights is None:
            with seeded(recipe.seed, torch.device("cpu")):
                network = build_network(self._sam, recipe.facts)
            if recipe.body is not None:
                assert isinstance(network.backbone, ImagePyramid)
                self._plan_with(body=locate(recipe.body))
                network.backbone.load_body(self.plan.files["body"])
            return network
        path = locate(recipe.weights)
        facts = SapNetFacts.read(path)
        if (facts.backbone, facts.settings) != (recipe.facts.backbone, recipe.facts.settings):
            fix = "Set the recipe's keys to those of the file"
            raise TrainingError("has other parts than the recipe", where=path, fix=fix)
        self._plan_with(**{KIND: path})
        return load_sapnet(self._sam, path)

    def metadata(self) -> dict[str, str]:
        return self._recipe.facts.metadata()

    def batches(self, source: Joined, embeddings: Path) -> SapNetBatches:
        recipe = self._recipe
        proposals = build_proposals(recipe.facts, device=str(self._device))
        files = sorted(sha256_of(path) for path in proposer_files(recipe.facts).values())
        asked = repr((files, recipe.proposer.model_dump(), recipe.context_factor))
        kept = KeptProposals(proposals, TensorStore(embeddings / "proposals"), asked)
        return SapNetBatches(recipe, source, self._show(embeddings), kept, self._device)

    def _show(self, embeddings: Path) -> Callable[[np.ndarray], Any]:
        if self.module.takes_pixels:
            return partial(to_tensor, device=self._device)
        return FrozenFeatures.of(self._sam, embeddings, self._device)

    def loss(self, part: ClickBatch) -> Tensor:
        generator = torch.Generator().manual_seed(part.seed)
        losses = sapnet_losses(
            self.module, self._levels(part.seen), part.clicks, part.masks, self._size, generator=generator
        )
        return torch.stack(list(losses.values())).sum()

    def scores(self, part: ClickBatch) -> Tensor:
        """(K, C) counts of ``BY_OBJECTS``: objects found without clicks, or else the masks chosen for the clicks."""
        (sample,) = part.truth
        found, labels = self._found(part) if self._recipe.instances else self._chosen(part)
        names = [self._recipe.classes[label] for label in labels]
        counts = [_counts(sample, found, names, name) for name in self._recipe.classes]
        return torch.tensor(counts, dtype=torch.float64).T

    def _found(self, part: ClickBatch) -> tuple[np.ndarray, list[int]]:
        """(n, S, S) bool objects of one patch, the surest first, and their classes from 0 on."""
        (solos,) = self.module.predict(self._levels(part.seen), self._size, min_score=MIN_SCORE, max_objects=MOST)
        side, _ = self._size
        masks, _, classes = objects_on_patch(instances_of(solos, side), side)
        return masks, (classes - 1).tolist()

    def _chosen(self, part: ClickBatch) -> tuple[np.ndarray, list[int]]:
        """The same of the masks that are chosen for clicks."""
        assert part.masks is not None
        chosen = self.module.select(self._levels(part.seen), part.clicks, self._size)
        order = chosen.score.argsort(descending=True, stable=True)
        masks = part.masks[order, chosen.mask[order]]
        return masks.cpu().numpy(), part.clicks.labels[order].tolist()

    @property
    def _size(self) -> tuple[int, int]:
        return self._sam.variant.image_size, self._sam.variant.image_size

    def _levels(self, seen: Any) -> list[Tensor]:
        return self.module.levels(seen)


def _counts(sample: Sample, found: np.ndarray, names: Sequence[str], name: str) -> Counts:
    """What is right and wrong about the objects of a class, where that is known."""
    picture = sample.high
    truth = np.where(picture.known & _of_class(sample, name)[picture.labels], picture.labels, 0)
    labels = np.zeros(truth.shape, np.int32)
    for number in reversed(range(len(found))):
        # what lies mostly where nobody annotated is neither right nor wrong
        if names[number] == name and 2 * picture.known[found[number]].sum() > found[number].sum():
            labels[found[number] & picture.known] = number + 1
    return score(Labels.of(truth), Labels.of(labels)).counts


def _of_class(sample: Sample, name: str) -> np.ndarray:
    """Whether each label, the background's first, is of a class."""
    return np.array([False, *(one == name for one in sample.classes)])
