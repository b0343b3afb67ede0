"""Tensors that are expensive to compute, kept in a folder: a file for each key, made anew where it is no good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from wsi_pipeline.files import beside

Tensors = dict[str, Tensor]


class TensorStore:
    """A folder of tensors.

    Args:
        folder: is made when it is first written to.
        device: where tensors are wanted.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self._folder, self._device = folder, str(device)

    def read(self, key: str) -> Tensors | None:
        """What is kept under a key; None where there is nothing, or not what was written."""
        try:
            return load_file(self._file(key), device=self._device)
        except (OSError, SafetensorError):
            return None

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a key, hex digits that tell all they depend on.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self._file(key)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            # not save_file, whose error of a full disk is no OSError
            partial.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    def get(self, key: str, compute: Callable[[], Tensors]) -> Tensors:
        """What is kept under a key, or what ``compute`` gives, which is kept from then on; raises as ``write``."""
        known = self.read(key)
        if known is None:
            known = compute()
            self.write(key, known)
        return known

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"
