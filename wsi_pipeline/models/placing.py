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
