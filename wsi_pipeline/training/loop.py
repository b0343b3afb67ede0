"""The training loop: epochs that can be stopped and gone on with at any time, and give the same weights on a CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.models.weights import sha256_of
from wsi_pipeline.training.checkpoint import Average, Checkpoint, copied, put, read_checkpoint
from wsi_pipeline.training.curves import Curves
from wsi_pipeline.training.epochs import steps_of
from wsi_pipeline.training.head import Batches
from wsi_pipeline.training.heads import HEADS
from wsi_pipeline.training.progress import Reporter, reporter_for
from wsi_pipeline.training.ranks import Ranks
from wsi_pipeline.training.recipe import Recipe
from wsi_pipeline.training.sources import TRAIN, Joined
from wsi_pipeline.training.validation import validate

CHECKPOINT = "checkpoint.pt"


class Training:
    """A training run in a folder; one that was begun there goes on.

    Args:
        recipe: how to train.
        source: what on.
        output: folder of the checkpoint and the curves.
        embeddings: folder of the frozen embeddings, which other runs may share.
        device: where to train.
        reporter: told how far it is; None for the terminal.
        ranks: the processes that train together; None for this one alone.
        tensorboard: whether the curves are written as event files, too.

    Attributes:
        head: what is trained.
        state: as of the last finished epoch.

    Raises:
        TrainingError: the folder is of another run, its checkpoint is damaged, or TensorBoard is wanted and missing.
        WeightsError: the weights to start from are missing or do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Joined,
        output: Path,
        embeddings: Path,
        *,
        device: str = "cpu",
        reporter: Reporter | None = None,
        ranks: Ranks | None = None,
        tensorboard: bool = False,
    ) -> None:
        self._ranks = ranks or Ranks()
        self.recipe, self.source, self._output, self._device = recipe, source, output, torch.device(device)
        self._reporter = reporter or reporter_for()
        self.head = HEADS[recipe.system](recipe, self._device)
        self._batches: Batches[Any] = self.head.batches(source, embeddings)
        chosen = recipe.optimiser
        self._optimiser = torch.optim.AdamW(
            self.head.groups(), lr=chosen.rate, betas=chosen.betas, eps=chosen.eps,
            weight_decay=chosen.weight_decay,
        )  # fmt: skip
        output.mkdir(parents=True, exist_ok=True)
        self._curves = Curves(output, events=tensorboard and self._ranks.is_first)
        self._average = Average(recipe.ema, copied(self.head.trained))
        self.state = self._state_to_go_on_from()

    def _state_to_go_on_from(self) -> Checkpoint:
        files = {role: sha256_of(path) for role, path in self.head.plan.files.items()}
        made_for = {"recipe": self.recipe.what_counts(), "data": self.source.digest(), "backbone": files}
        found = read_checkpoint(self._output / CHECKPOINT, made_for, self._device)
        if found is None:
            return Checkpoint(made_for)
        put(self.head.trained, found.trained)
        self._average = Average(self.recipe.ema, copied(found.average), found.updates)
        self._optimiser.load_state_dict(found.optimiser)
        return found

    def run(self) -> Checkpoint:
        """Train until the recipe's last epoch, or until validation has not become better for ``patience`` epochs.

        Raises:
            TrainingError: the loss is not a number, or no sample shows an object.
        """
        try:
            if not self.state.history:
                self._finish(0, None, time.monotonic())
            elif self._ranks.is_first:
                self._curves.write(self.state.history)
            while self.state.epoch < self.recipe.epochs and not self._is_over():
                self._epoch(self.state.epoch + 1)
        finally:
            self._reporter.close()
        return self.state

    @property
    def best(self) -> dict[str, Any]:
        """The row of the epoch whose weights are the result."""
        return best_row(self.state.history, self.head.judgement.best)

    def _is_over(self) -> bool:
        return self.state.epoch - self.best["epoch"] >= self.recipe.patience

    def _epoch(self, epoch: int) -> None:
        begun = time.monotonic()
        self.head.begin(epoch)
        steps = steps_of(self.recipe, self.source.numbers(TRAIN), epoch)
        self._reporter.start(epoch, len(steps))
        losses: list[float] = []
        for number, batches in enumerate(steps, start=1):
            losses += self._step(batches, epoch, number)
            self._reporter.advance()
        if not losses:
            fix = "Check the data, or lower min_object"
            raise TrainingError(f"no sample shows an object in epoch {epoch}", where="train", fix=fix)
        self._finish(epoch, sum(losses) / len(losses), begun)

    def _step(self, batches: Sequence[Sequence[int]], epoch: int, number: int) -> list[float]:
        """Follow the mean gradient of some batches; gives the losses of those that show objects."""
        self._optimiser.zero_grad()
        losses = []
        for part, samples in self._ranks.mine(batches):
            loss = None
            for item in self._batches.training(samples, epoch, number, part):
                with self._precision():
                    scaled = self.head.loss(item) * item.share
                self._check(scaled, "the loss", samples, epoch, number)
                (scaled / len(batches)).backward()
                loss = (loss or 0.0) + float(scaled.detach())
            losses += [] if loss is None else [loss]
        losses = self._ranks.all_of(losses)
        if losses:
            self._ranks.add_up(self.head.trained.values())
            length = clip_grad_norm_(self.head.trained.values(), self.recipe.optimiser.clip or torch.inf)
            self._check(length, "the gradient", [sample for batch in batches for sample in batch], epoch, number)
            for group in self._optimiser.param_groups:
                # runs that were begun before there were shares know none
                group["lr"] = group.get("share", 1.0) * self.recipe.optimiser.rate_in(epoch, self._average.updates)
            self._optimiser.step()
            self._average.update(self.head.trained)
        return losses

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _check(self, value: Tensor, what: str, samples: Sequence[int], epoch: int, number: int) -> None:
        if not torch.isfinite(value):
            names = ", ".join(self.source.infos[sample].source_id for sample in samples)
            raise TrainingError(
                f"{what} is {float(value.detach())} in epoch {epoch}, step {number} ({names})",
                where=self.recipe.system,
                fix="Look at these samples, or lower optimiser.rate and begin in another folder",
            )

    def _finish(self, epoch: int, loss: float | None, begun: float) -> None:
        """Validate the average, and write the checkpoint and the curves."""
        moving = copied(self.head.trained)
        put(self.head.trained, self._average.values)
        score = self._ranks.as_the_first(self._score() if self._ranks.is_first else None)
        put(self.head.trained, moving)
        row = {"epoch": epoch, "rate": self._optimiser.param_groups[0]["lr"], "loss": loss} | (score or {})
        history = [*self.state.history, row | {"seconds": round(time.monotonic() - begun, 2)}]
        best = (
            copied(self._average.values)
            if best_row(history, self.head.judgement.best)["epoch"] == epoch
            else self.state.best
        )
        self.state = Checkpoint(
            self.state.made_for,
            epoch,
            moving,
            copied(self._average.values),
            self._average.updates,
            self._optimiser.state_dict(),
            best,
            history,
        )
        if self._ranks.is_first:
            self.state.write(self._output / CHECKPOINT)
            self._curves.write(history)
        self._reporter.finish(history[-1])

    def _score(self) -> dict[str, float]:
        """What epochs are judged by; nothing where no sample is for that."""
        if self.source.judged_on is None:
            return {}
        with self._precision():
            return validate(self.head, self._batches, self.source.numbers(self.source.judged_on))


def best_row(history: Sequence[dict[str, Any]], score: str) -> dict[str, Any]:
    """The epoch with the best score, the first of equals; where nothing judges them, the last.

    Epoch 0, before training, counts only where it is alone.
    """
    if score not in history[-1]:
        return history[-1]
    return max(history[1:] or history, key=lambda row: float(row[score]))
