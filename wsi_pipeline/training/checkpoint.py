"""The state of a training run after an epoch, and the average of its weights."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.files import beside

Tensors = dict[str, Tensor]


@dataclass(slots=True)
class Average:
    """An exponential moving average of parameters.

    Attributes:
        decay: of the weights; at first a smaller one, as there is little to remember (as in TensorFlow's
            ``ExponentialMovingAverage``).
        values: by the parameters' keys.
        updates: how many there were.
    """

    decay: float
    values: Tensors
    updates: int = 0

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor]) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        for name, value in self.values.items():
            value.lerp_(parameters[name], 1 - decay)


def copied(parameters: Mapping[str, Tensor]) -> Tensors:
    """Copies that no step changes."""
    return {name: value.detach().clone() for name, value in parameters.items()}


@torch.no_grad()
def put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Set parameters to values of the same keys."""
    for name, value in parameters.items():
        value.copy_(values[name])


@dataclass(slots=True)
class Checkpoint:
    """All a run needs to go on.

    Attributes:
        made_for: recipe, data and backbone; only the same may go on.
        epoch: the last one that was finished, 0 before the first.
        trained: parameters.
        average: of them, and its number of updates.
        optimiser: its state dict.
        best: the average after the epoch of the best validation; empty before the first.
        history: a row of the curves for each epoch, from 0 on.
    """

    made_for: dict[str, Any]
    epoch: int = 0
    trained: Tensors = field(default_factory=dict)
    average: Tensors = field(default_factory=dict)
    updates: int = 0
    optimiser: dict[str, Any] = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write it so that a file of that name is whole.

        Raises:
            OutputError: it cannot be written.
        """
        stream = io.BytesIO()
        torch.save({name: getattr(self, name) for name in self.__slots__}, stream)
        with beside(path) as partial:
            partial.write_bytes(stream.getbuffer())


def read_checkpoint(path: Path, made_for: dict[str, Any], device: torch.device) -> Checkpoint | None:
    """The state to go on from; None where there is none yet.

    Raises:
        TrainingError: it is damaged, or of a run with another recipe, data or backbone.
    """
    if not path.exists():
        return None
    try:
        found = Checkpoint(**torch.load(path, map_location=device, weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        said = (str(error).splitlines() or [""])[0][:100]
        raise TrainingError(f"cannot be read ({said})", where=path, fix="Delete it to start again") from None
    other = [name for name, value in made_for.items() if found.made_for.get(name) != value]
    if other:
        raise TrainingError(
            f"was made with another {' and '.join(other)}", where=path, fix="Give another --output, or delete it"
        )
    return found
