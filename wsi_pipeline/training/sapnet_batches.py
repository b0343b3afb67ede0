"""Patches with clicks as batches for SAPNet: embeddings, and what a segmenter takes each click for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.encoding import pixel_digest
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.models.sapnet.proposals import MaskProposals, Proposals
from wsi_pipeline.models.sapnet.selection import Clicks
from wsi_pipeline.models.tensor_store import TensorStore
from wsi_pipeline.training.data.clicks import Clicked, clicks_on
from wsi_pipeline.training.data.samples import Sample
from wsi_pipeline.training.data.warp import WarpRange
from wsi_pipeline.training.epochs import Patches, random_of
from wsi_pipeline.training.sapnet_recipe import SapNetRecipe
from wsi_pipeline.training.sources import TRAIN, Joined

logger = logging.getLogger(__name__)


class ClickBatch(NamedTuple):
    """B patches with n clicks.

    Attributes:
        seen: what the network's backbone takes of the patches: embeddings, or (B, 3, S, S) float32 pixels 0..255.
        clicks: what is known of them, and the boxes of what is proposed.
        masks: (n, M, S, S) bool, what is proposed; None where only its boxes are looked at.
        truth: samples with outlines to judge by, one for each patch; none in training.
        seed: of what a training step draws.
        share: of its batch.
    """

    seen: Any
    clicks: Clicks
    masks: Tensor | None
    truth: tuple[Sample, ...] = ()
    seed: int = 0
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class KeptProposals:
    """Asks about each patch and its clicks once.

    Attributes:
        proposals: asks.
        store: keeps the answers.
        identity: of the segmenter and of how it is asked.
    """

    proposals: MaskProposals
    store: TensorStore
    identity: str

    def of(self, sample: Sample, points: np.ndarray) -> Proposals:
        """The proposals for clicks (n, 2) on a sample of the segmenter's size, with a low patch if it is asked."""
        low = sample.low.image if self.proposals.uses_low_patch and sample.low is not None else None
        told = [self.identity, pixel_digest(sample.high.image), "" if low is None else pixel_digest(low)]
        key = hashlib.blake2b(repr(told).encode() + points.tobytes(), digest_size=16).hexdigest()

        def ask() -> dict[str, Tensor]:
            images = PairImages(sample.high.image[None], None if low is None else low[None], sample.context_factor)
            return self.proposals.propose(self.proposals.encode(images), 0, points).tensors()

        return Proposals.of(self.store.get(key, ask))


class SapNetBatches:
    """Makes batches of samples; of their outlines training sees no more than a click in each.

    Args:
        recipe: how; names the classes.
        source: the samples.
        show: makes of (B, S, S, 3) uint8 RGB patches what the network's backbone takes.
        proposals: asks about the clicks.
        device: where batches are wanted.

    Raises:
        TrainingError: no sample has objects of one of the classes.
    """

    def __init__(
        self,
        recipe: SapNetRecipe,
        source: Joined,
        show: Callable[[np.ndarray], Any],
        proposals: KeptProposals,
        device: torch.device,
    ) -> None:
        self._recipe, self._show = recipe, show
        self._proposals, self._device = proposals, device
        self._clicked = Patches(recipe, Clicked(source, recipe.seed), WarpRange(zoom=recipe.zoom))
        self._whole = Patches(recipe, source)
        annotated = {name for number in source.numbers(TRAIN) for name in source.infos[number].class_names}
        missing, more = (sorted(one) for one in (set(recipe.classes) - annotated, annotated - set(recipe.classes)))
        if missing:
            fix = f"Take it out, or use {', '.join(sorted(annotated))}"
            raise TrainingError(f"nothing is annotated as {', '.join(missing)}", where="classes", fix=fix)
        if more:
            logger.warning("clicks of %s are left out: the recipe does not name the class", ", ".join(more))

    def training(self, numbers: Sequence[int], epoch: int, step: int, part: int) -> Iterator[ClickBatch]:
        """One part of all samples that show clicks; see ``Batches``."""
        seed, variant = self._recipe.seed, (epoch - 1) % self._recipe.variants
        pairs = zip(numbers, self._clicked.varied(numbers, variant), strict=True)
        asked = [self._ask(pair, np.random.default_rng((seed, variant, number))) for number, pair in pairs]
        yield from self._batch(asked, seed=int(random_of(self._recipe, epoch, step, part).integers(2**62)))

    def validation(self, number: int) -> Iterator[ClickBatch]:
        """The middle of a sample as it is, with its outlines."""
        asked = self._ask(self._clicked.plain(number), np.random.default_rng((self._recipe.seed, number)))
        yield from self._batch([asked], truth=(self._whole.plain(number),))

    def _batch(self, asked: Sequence[_Asked], *, truth: tuple[Sample, ...] = (), seed: int = 0) -> Iterator[ClickBatch]:
        """Nothing where no click is proposed anything for."""
        counts = [len(one.points) for one in asked]
        if not sum(counts):
            return
        proposals = Proposals.joined([one.proposals for one in asked])
        arrays = (
            np.concatenate([one.points for one in asked]),
            np.concatenate([one.labels for one in asked]),
            np.repeat(np.arange(len(asked)), counts),
            proposals.boxes,
            proposals.valid,
            proposals.scores,
        )
        clicks = Clicks(*(torch.from_numpy(array).to(self._device) for array in arrays))
        drawn = self._recipe.instances or truth
        masks = torch.from_numpy(proposals.all_masks()).to(self._device) if drawn else None
        seen = self._show(np.stack([one.image for one in asked]))
        yield ClickBatch(seen, clicks, masks, truth, seed)

    def _ask(self, sample: Sample, random: np.random.Generator) -> _Asked:
        """What is proposed for the clicks on a sample; those for which nothing is are left out."""
        points, numbers = clicks_on(sample.high)
        names = [sample.classes[number - 1] for number in numbers]
        labels = np.array([_index(name, self._recipe.classes) for name in names], np.int64)
        wanted = random.permutation(np.flatnonzero(labels >= 0))[: self._recipe.points]
        wanted.sort()
        proposals = self._proposals.of(sample, points[wanted])
        rows = np.flatnonzero(proposals.valid.any(axis=1))
        return _Asked(sample.high.image, points[wanted][rows], labels[wanted][rows], proposals.take(rows))


class _Asked(NamedTuple):
    """A patch, its n clicks, their classes (n,) from 0 on, and what is proposed for them."""

    image: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    proposals: Proposals


def _index(name: str, classes: Sequence[str]) -> int:
    """Number of a class; -1 for none of them."""
    return classes.index(name) if name in classes else -1
