"""Random numbers that depend on a seed and not on the device that uses them.

A generator on the CPU gives the same numbers for a computation on any device; one on the GPU spares the transfer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def uniform(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """float32 in [0, 1) on ``device``, drawn where the generator is."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def normal(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """float32 of mean 0 and variance 1 on ``device``, drawn where the generator is."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What modules draw by themselves, such as dropout: the same for a seed, and nobody else's draws change."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
