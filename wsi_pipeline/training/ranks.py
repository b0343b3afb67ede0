"""Training on several devices at once: each computes some batches of a step, and all follow the mean gradient.

Processes are started by ``torchrun``, one for each device; without it there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

Item = TypeVar("Item")


class Ranks:
    """The processes of a run, and which of them this one is.

    Args:
        size: how many there are.
        rank: number of this one; the first, 0, judges, reports and writes.
    """

    def __init__(self, size: int = 1, rank: int = 0) -> None:
        self.size, self.rank = size, rank

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @classmethod
    def joined(cls, device: str) -> Ranks:
        """Meet the other processes ``torchrun`` has started, if any (its variables ``WORLD_SIZE`` and ``RANK``).

        Args:
            device: what kind they compute on.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(size, distributed.get_rank())

    def device(self, device: str) -> str:
        """The device of this process: of several on CUDA each has its own (``LOCAL_RANK``)."""
        if self.size == 1 or not device.startswith("cuda"):
            return device
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
        return device

    def mine(self, items: Sequence[Item]) -> list[tuple[int, Item]]:
        """This process's share of items, with their numbers among all."""
        return list(enumerate(items))[self.rank :: self.size]

    def add_up(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their sums over the processes; one that has none adds nothing."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)

    def all_of(self, values: list[float]) -> list[float]:
        """The values of all processes, those of the first one first."""
        if self.size == 1:
            return values
        parts: list[list[float]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, values)
        return [value for part in parts for value in part]

    def as_the_first(self, value: Item | None) -> Item | None:
        """What the first process gave."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]
