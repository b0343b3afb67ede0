"""One embedding per patch, whoever asks for it.

Models that stand on the same image encoder share it in a process, and what one of them has just encoded the next one
finds. On request embeddings are kept on disk, too, for later runs and for prompts added later. A patch is known by its
pixels, so slide, resolution, place and every setting that changes them are part of what is compared.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from wsi_pipeline.models.backbones.tiny_vit import TinyViT, fuse_for_inference
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.preprocess import PixelScale, to_tensor
from wsi_pipeline.models.tensor_store import TensorStore

_BATCH = {"cpu": 1, "cuda": 8}
"""Patches encoded at once. On a CPU larger batches are slower, and an embedding then does not depend, to the last bit,
on what else is in the batch."""

_UNUSED = ("head.", "norm_head.")
"""TinyViT's classifier, which some files hold."""


class PatchEncoder:
    """An image encoder with its memory.

    Args:
        encoder: gives an ``EncoderOutput``; weights are read now, the module is not changed.
        pixels: how it wants its pixels.
        size: side of its patches, px.
        signature: of the weights, see ``weights_signature``.
        device, dtype: where and in what to compute.

    Attributes:
        computed: patches that were encoded.
        recalled: patches that were found in memory or on disk instead.
    """

    def __init__(
        self,
        encoder: nn.Module,
        pixels: PixelScale,
        size: int,
        *,
        signature: str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size, self.device, self.dtype = size, device, dtype
        fused = fuse_for_inference(encoder) if isinstance(encoder, TinyViT) else encoder
        self._encoder = placed(fused, device, dtype)
        self._pixels = pixels
        self._batch = _BATCH.get(device.type, _BATCH["cuda"])
        threads = f"-{torch.get_num_threads()}" if device.type == "cpu" else ""  # sums depend on how they are split
        self._circumstances = f"{signature}-{str(dtype).removeprefix('torch.')}-{device.type}{threads}"
        self._store: TensorStore | None = None
        self._last = threading.local()
        self.users = 0
        self.computed = self.recalled = 0

    def keep_in(self, folder: Path | None) -> None:
        """Keep embeddings on disk from now on, one file per patch, in a subfolder of this encoder's own; None stops."""
        self._store = None if folder is None else TensorStore(folder / self._circumstances, self.device)

    @torch.inference_mode()
    def encode(self, *stacks: np.ndarray) -> tuple[EncoderOutput, ...]:
        """Embed stacks of (B, S, S, 3) uint8 RGB patches, each stack as one output.

        Raises:
            ValueError: patches of another size.
        """
        for images in stacks:
            if images.shape[1:] != (self.size, self.size, 3):
                raise ValueError(
                    f"patches of shape {images.shape[1:]} for a model that takes {(self.size, self.size, 3)}"
                )
        if self._store is None and self.users < 2:  # nobody will ask again
            self.computed += sum(map(len, stacks))
            return tuple(_joined(self._compute(images)) for images in stacks)
        keys = [[pixel_digest(patch) for patch in images] for images in stacks]
        known = self._find({key for one in keys for key in one})
        missing = {
            key: patch
            for one, images in zip(keys, stacks, strict=True)
            for key, patch in zip(one, images, strict=True)
            if key not in known
        }
        if missing:
            for key, output in zip(missing, self._compute(list(missing.values())), strict=True):
                known[key] = output
                self._write(key, output)
        self.computed += len(missing)
        self.recalled += sum(map(len, keys)) - len(missing)
        self._last.outputs = known
        return tuple(_joined([known[key] for key in one]) for one in keys)

    def _compute(self, patches: Sequence[np.ndarray] | np.ndarray) -> list[EncoderOutput]:
        outputs: list[EncoderOutput] = []
        for start in range(0, len(patches), self._batch):
            some = np.stack(list(patches[start : start + self._batch]))
            pixels = self._pixels.apply(to_tensor(some, self.device))
            output = self._encoder(pixels.to(self.dtype))
            outputs += [
                EncoderOutput(*one) for one in zip(output.embedding.split(1), output.early.split(1), strict=True)
            ]
        return outputs

    def _find(self, keys: set[str]) -> dict[str, EncoderOutput]:
        """What is known of these patches: from this thread's last call, then from disk."""
        last: dict[str, EncoderOutput] = getattr(self._last, "outputs", {})
        known = {key: last[key] for key in keys & last.keys()}
        for key in keys - known.keys():
            output = self._read(key)
            if output is not None:
                known[key] = output
        return known

    def _read(self, key: str) -> EncoderOutput | None:
        stored = None if self._store is None else self._store.read(key)
        # a file of something else is as good as none
        return EncoderOutput(**stored) if stored is not None and stored.keys() == set(EncoderOutput._fields) else None

    def _write(self, key: str, output: EncoderOutput) -> None:
        if self._store is not None:
            self._store.write(key, output._asdict())


_shared: WeakValueDictionary[tuple[str, str, torch.dtype], PatchEncoder] = WeakValueDictionary()
_sharing = threading.Lock()


def shared_encoder(
    encoder: nn.Module, pixels: PixelScale, size: int, *, device: torch.device, dtype: torch.dtype
) -> PatchEncoder:
    """This process's encoder of these very weights; arguments as of ``PatchEncoder``."""
    signature = weights_signature(encoder)
    with _sharing:
        key = (signature, str(device), dtype)
        found = _shared.get(key)
        if found is None:
            found = PatchEncoder(encoder, pixels, size, signature=signature, device=device, dtype=dtype)
            _shared[key] = found
        found.users += 1
        return found


def weights_signature(module: nn.Module) -> str:
    """Hex digest of the parameters and buffers an image encoder uses, names and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        if name.startswith(_UNUSED):
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pixel_digest(patch: np.ndarray) -> str:
    """Hex digest of an image's pixels: what a patch is known by."""
    return hashlib.blake2b(np.ascontiguousarray(patch).data, digest_size=16).hexdigest()


def _joined(outputs: Sequence[EncoderOutput]) -> EncoderOutput:
    parts: list[Tensor] = [torch.cat(tensors) for tensors in zip(*outputs, strict=True)]
    return EncoderOutput(*parts)
