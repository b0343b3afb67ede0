"""CLIP as the library transformers writes it, from a folder of this machine; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.image_text.pixels import SquarePixels
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.weights import sha256_of

CONFIG = "config.json"
POSITIONS = "position_ids"
"""End of keys that older files hold and no network reads."""
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's pixels, where the folder says nothing else."""


class TransformersClip:
    """A ``CLIPModel`` with its tokeniser; plays ``MapEncoder``.

    Args:
        folder: with ``config.json``, weights and tokeniser.
        device, dtype: where and in what to compute; results are float32.

    Raises:
        WeightsError: files are missing or damaged, hold pickled code, or are of another kind.
    """

    reads_sentences = True
    pool_grid: int | None = None

    def __init__(self, folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        file = weights_file(folder)
        self.device, self.dtype = torch.device(device), dtype
        self.name = f"transformers {folder.name} {sha256_of(file)[:16]}"
        network, self._tokenizer = _read(folder, file)
        self._network: Any = placed(network, self.device, dtype)
        self.dim = int(network.config.projection_dim)
        self.image_size = int(network.config.vision_config.image_size)
        self.logit_scale = float(network.logit_scale.exp())
        self._pixels = SquarePixels.of_unit(self.image_size, *_pixels(folder))
        self._longest = int(network.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``TextEncoder``."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self.device)
        seen = self._network.text_model(**tokens).pooler_output
        return F.normalize(self._network.text_projection(seen).float(), dim=1)

    @torch.inference_mode()
    def encode_image(self, images: np.ndarray) -> Tensor:
        """See ``ImageTextEncoder``."""
        seen = self._network.vision_model(self._pixels.of(images, self.device, self.dtype)).pooler_output
        return F.normalize(self._network.visual_projection(seen).float(), dim=1)

    @torch.inference_mode()
    def encode_map(self, images: np.ndarray) -> Tensor:
        """See ``MapEncoder``."""
        seen = self._network.vision_model(self._pixels.of(images, self.device, self.dtype)).last_hidden_state
        side = self.image_size // int(self._network.config.vision_config.patch_size)
        return seen[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2).float()

    @torch.inference_mode()
    def encode_pooled(self, pooled: Tensor) -> Tensor:
        """See ``MapEncoder``."""
        normed = self._network.vision_model.post_layernorm(pooled.to(self.dtype))
        return F.normalize(self._network.visual_projection(normed).float(), dim=1)


def weights_file(folder: Path) -> Path:
    """The checkpoint in a folder.

    Raises:
        WeightsError: there is none.
    """
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise WeightsError("holds no weights of a CLIP", where=folder, fix=f"Put {_WEIGHTS[0]} into it")
    return found


def _read(folder: Path, file: Path) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type")
        if kind != "clip":
            fix = "Give a folder whose model_type is clip, or a network of open_clip"
            raise WeightsError(f"holds a network of type {kind}, not a CLIP", where=folder, fix=fix)
        config = CLIPConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0][:150]
        fix = "Give a folder that CLIPModel and its tokeniser were saved to"
        raise WeightsError(f"cannot be read ({said})", where=folder, fix=fix) from None
    network = CLIPModel(config)
    # not the library's own way, which prints what it does
    state = {key: value for key, value in read_state_dict(file).items() if not key.endswith(POSITIONS)}
    load_into(network, state, where=file)
    return network, tokenizer


def _pixels(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        known = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        return tuple(known["image_mean"]), tuple(known["image_std"])
    except (OSError, ValueError, KeyError):
        return _MEAN, _STD
