"""CLIP and its relatives through open_clip, from a folder or a checkpoint of this machine; nothing is downloaded."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.checkpoints import State, load_into, read_state_dict
from wsi_pipeline.models.image_text.pixels import SquarePixels
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.weights import sha256_of

CONFIG = "open_clip_config.json"
"""What makes a folder one of open_clip's."""
MAP_PX = 1024
"""Side that images are enlarged to for the maps of convolutional networks, as published; others know one size only."""
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that the first published files hold beside their parameters."""


class OpenClip:
    """A network of open_clip with its tokeniser; plays ``MapEncoder`` where its image side has a map.

    Args:
        network: in evaluation mode.
        tokenizer: sentences to tokens.
        name: tells it, weights included, from every other.
        device, dtype: where and in what to compute; results are float32.

    Attributes:
        has_stages: whether its image side is a ResNet or ConvNeXt, with maps of four sizes.
    """

    reads_sentences = True

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        name: str,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.dtype, self.name = torch.device(device), dtype, name
        self._network = cast("Any", placed(network, self.device, dtype))
        self._tokenizer = tokenizer
        visual = self._network.visual
        side = visual.image_size
        self.image_size = int(side if isinstance(side, int) else side[0])
        self._pixels = SquarePixels.of_unit(self.image_size, *_published_pixels(visual))
        self.has_stages = hasattr(visual, "layer4") or _is_convnext(visual)
        self._map_pixels = replace(self._pixels, size=MAP_PX) if self.has_stages else self._pixels
        self.logit_scale = float(self._network.logit_scale.detach().exp())
        self.dim = self.encode_text([""]).shape[1]
        self._visual = visual
        pool = getattr(visual, "attnpool", None)
        self.pool_grid = None if pool is None else math.isqrt(len(pool.positional_embedding) - 1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See ``TextEncoder``."""
        tokens = self._tokenizer(list(texts)).to(self.device)
        return F.normalize(self._network.encode_text(tokens).float(), dim=1)

    @torch.inference_mode()
    def encode_image(self, images: np.ndarray) -> Tensor:
        """See ``ImageTextEncoder``."""
        pixels = self._pixels.of(images, self.device, self.dtype)
        return F.normalize(self._network.encode_image(pixels).float(), dim=1)

    @torch.inference_mode()
    def encode_map(self, images: np.ndarray) -> Tensor:
        """See ``MapEncoder``."""
        return self._maps(self._map_pixels.of(images, self.device, self.dtype), 1)[0].float()

    @torch.inference_mode()
    def encode_stages(self, pixels: Tensor) -> list[Tensor]:
        """The four maps (B, C_i, H/4, W/4) to (B, C_i, H/32, W/32) of a ResNet or ConvNeXt.

        Args:
            pixels: (B, 3, H, W), scaled.
        """
        return self._maps(pixels.to(self.dtype), 4)

    @torch.inference_mode()
    def encode_pooled(self, pooled: Tensor) -> Tensor:
        """See ``MapEncoder``.

        Raises:
            WorkflowError: the image side has no head for parts of images.
        """
        return F.normalize(self._head(pooled.to(self.dtype)).float(), dim=1)

    def _maps(self, pixels: Tensor, count: int) -> list[Tensor]:
        return self._visual.forward_intermediates(pixels, indices=count, intermediates_only=True)["image_intermediates"]

    def _head(self, pooled: Tensor) -> Tensor:
        """Vectors in the words' space, of any length."""
        visual = self._visual
        if hasattr(visual, "attnpool"):
            return visual.attnpool(pooled)
        if _is_convnext(visual):
            return visual.head(visual.trunk.forward_head(pooled[:, :, None, None]))
        if hasattr(visual, "ln_post") and visual.attn_pool is None:
            pooled = visual.ln_post(pooled)
            return pooled if visual.proj is None else pooled @ visual.proj
        fix = "Set recognise.clip.how to image-crop"
        raise WorkflowError("its image side cannot say what parts of images mean", where=self.name, fix=fix)


def load_open_clip(
    path: Path, model: str | None = None, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> OpenClip:
    """A network of open_clip.

    Args:
        path: a folder with ``open_clip_config.json`` and weights, or a checkpoint.
        model: open_clip's name of the architecture, e.g. ``RN50``; needed for a checkpoint.
        device, dtype: where and in what to compute.

    Raises:
        WorkflowError: open_clip is not installed, or it knows no such architecture.
        WeightsError: no such file, or it does not fit.
    """
    try:
        import open_clip
    except ImportError:
        fix = "Run pip install 'wsi-pipeline[clip]'"
        raise WorkflowError("open_clip_torch is not installed", where=path, fix=fix) from None
    folder = path.is_dir()
    if not folder and model not in open_clip.list_models():
        raise WorkflowError(
            f"{model or 'nothing'} is no architecture of open_clip",
            where="recognise.clip.model",
            fix="Give one of open_clip.list_models(), e.g. RN50 or ViT-B-16",
        )
    source = f"local-dir:{path}" if folder else str(model)
    _check_local(open_clip.get_model_config(source), source, path)
    file = weights_file(path)
    with _silence():
        network = open_clip.create_model(source, load_weights=False, pretrained_text=False)
        tokenizer = open_clip.get_tokenizer(source)
    load_into(network, _converted(network, read_state_dict(file)), where=file)
    name = f"open_clip {path.name if folder else model} {sha256_of(file)[:16]}"
    return OpenClip(network, tokenizer, name, device=device, dtype=dtype)


def weights_file(path: Path) -> Path:
    """The checkpoint: the path itself, or what lies in a folder.

    Raises:
        WeightsError: there is none.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
    if found is None:
        raise WeightsError("holds no weights of open_clip", where=path, fix=f"Put {_WEIGHTS[0]} into it")
    return found


@contextmanager
def _silence() -> Iterator[None]:
    """open_clip tells the root logger all it does, which would give that a handler of its own for good."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(nowhere)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(nowhere)


def _check_local(config: dict[str, Any], source: str, path: Path) -> None:
    """Refuse networks whose words are read by a network or tokeniser that would be downloaded."""
    text = config.get("text_cfg", {})
    foreign = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    if not foreign:
        return
    if source.startswith("local-dir:") and (path / "tokenizer_config.json").is_file() and not text.get("hf_model_name"):
        return
    raise WorkflowError(
        f"its words are read by {foreign}, which is no part of it",
        where=path,
        fix="Give a network with a text side of its own, or a folder that holds the tokeniser, too",
    )


def _converted(network: nn.Module, state: State) -> State:
    """A state dict with the names of open_clip's network, whichever way it was written."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = convert_state_dict(network, {key: value for key, value in state.items() if key not in _NOT_WEIGHTS})
    if "positional_embedding" in state and not hasattr(network, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = network.state_dict()
    return {
        key: value.reshape(own[key].shape) if key in own and value.numel() == own[key].numel() == 1 else value
        for key, value in state.items()
    }


def _published_pixels(visual: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    known = getattr(visual, "preprocess_cfg", None) or {}
    return known.get("mean", OPENAI_DATASET_MEAN), known.get("std", OPENAI_DATASET_STD)


def _is_convnext(visual: Any) -> bool:
    return type(getattr(visual, "trunk", None)).__name__ == "ConvNeXt"


def is_open_clip_folder(path: Path) -> bool:
    """Whether a folder says it is one of open_clip's."""
    try:
        return "model_cfg" in json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
