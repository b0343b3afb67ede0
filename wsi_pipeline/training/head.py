"""What can be trained: parameters on a backbone, batches to train them on, a loss, and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.training.judging import BY_MASKS, Judgement
from wsi_pipeline.training.recipe import Recipe
from wsi_pipeline.training.sources import Joined


class Part(Protocol):
    """What is computed at once, a part of a batch."""

    @property
    def share(self) -> float:
        """How much of the batch it is, 0..1."""
        ...


P = TypeVar("P", bound=Part)
P_co = TypeVar("P_co", bound=Part, covariant=True)


class Batches(Protocol[P_co]):
    """Makes batches of samples."""

    def training(self, numbers: Sequence[int], epoch: int, step: int, part: int) -> Iterator[P_co]:
        """The parts of a batch of these samples; none where they show no object.

        They depend on the recipe and on these arguments only: the samples' numbers, the number of the epoch (the first
        being 1), of the step in it and of the batch in that.
        """
        ...

    def validation(self, number: int) -> Iterator[P_co]:
        """The parts of a sample as it is; none where it shows no object."""
        ...


class Head(ABC, Generic[P]):
    """Parameters that are trained on a backbone, in fp32.

    Args:
        recipe: what to start from and what to train.
        device: where.

    Attributes:
        module: holds the parameters.
        trained: the parameters that are trained, by key.
        plan: the files it was made of.
        judgement: what its epochs are judged by.
    """

    kind: ClassVar[str]
    judgement: ClassVar[Judgement] = BY_MASKS

    module: nn.Module
    plan: WeightPlan
    trained: dict[str, nn.Parameter]

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._recipe, self._device = recipe, device

    @abstractmethod
    def batches(self, source: Joined, embeddings: Path) -> Batches[P]:
        """Batches of samples; frozen embeddings are kept in the folder."""

    @abstractmethod
    def loss(self, part: P) -> Tensor:
        """The loss, a scalar; px that nobody knows do not change it."""

    @abstractmethod
    def scores(self, part: P) -> Tensor:
        """(R, N) of its N objects, as ``judgement`` wants them; by masks, they are Dice and boundary IoU at its px."""

    def _plan_with(self, **files: Path) -> None:
        """It is made of these files, too; with others it is another run."""
        self.plan = WeightPlan(self.plan.backbone, {**self.plan.files, **files})

    def tensors(self) -> dict[str, Tensor]:
        """What the file holds, by key."""
        return self.module.state_dict()

    def metadata(self) -> dict[str, str]:
        """What the file says besides its tensors."""
        return {}

    def groups(self) -> list[dict[str, Any]]:
        """The trained parameters as groups of an optimiser, each with the ``share`` of the rate that is its own."""
        return [{"params": list(self.trained.values()), "share": 1.0}]

    def begin(self, epoch: int) -> None:
        """Get ready to train the epoch of that number, the first being 1."""
        self.module.train()
