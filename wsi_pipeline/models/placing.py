"""Modules on the device and in the precision they are to run in."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def placed(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """The module on a device in a dtype; a copy unless it is there already."""
    first = next(module.parameters())
    if first.device == device and first.dtype == dtype:
        return module
    return copy.deepcopy(module).to(device=device, dtype=dtype)


def suited(device: torch.device, *, cpu: int, gpu: int) -> int:
    """How many to compute at once.

    On a CPU more are slower from few on, and with one image at once what comes out does not depend on the others, to
    the last bit.
    """
    return cpu if device.type == "cpu" else gpu
