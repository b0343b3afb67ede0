"""What is expensive to compute, computed once and found on disk afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from wsi_pipeline.files import beside

Tensors = dict[str, Tensor]


class Kept:
    """Tensors in a folder, a file for each key.

    Args:
        folder: is made when it is first written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str, compute: Callable[[], Tensors]) -> Tensors:
        """What is kept under a key, or what ``compute`` gives, which is kept from then on.

        Args:
            key: hex digits that tell all it depends on.
            compute: makes it.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self._folder / key[:2] / f"{key}.safetensors"
        with suppress(OSError, SafetensorError):  # absent, or not what was written: it is made again
            return load_file(path)
        made = {name: value.cpu().contiguous() for name, value in compute().items()}
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            partial.write_bytes(save(made))
        return made
