"""An image-text network by its path, whichever library wrote it."""

from __future__ import annotations

from pathlib import Path

import torch

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.image_text import MapEncoder, openclip, transformers_clip


def load_image_text(
    path: Path, model: str | None = None, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> MapEncoder:
    """The network at a path, in evaluation mode.

    Args:
        path: a checkpoint of open_clip, or a folder as open_clip or transformers write it.
        model: open_clip's name of a checkpoint's architecture.
        device, dtype: where and in what to compute.

    Raises:
        WorkflowError: open_clip is not installed, or it knows no such architecture.
        WeightsError: no such file, damaged, with pickled code, or of another kind.
    """
    _check(path)
    if path.is_dir() and not openclip.is_open_clip_folder(path):
        return transformers_clip.TransformersClip(path, device=device, dtype=dtype)
    return openclip.load_open_clip(path, model, device=device, dtype=dtype)


def image_text_weights(path: Path) -> Path:
    """The file of the parameters at such a path, for the model's identity.

    Raises:
        WeightsError: there is none.
    """
    _check(path)
    if path.is_dir() and not openclip.is_open_clip_folder(path):
        return transformers_clip.weights_file(path)
    return openclip.weights_file(path)


def _check(path: Path) -> None:
    if not path.exists():
        raise WeightsError("no such file or folder", where=path, fix="Set recognise.clip.path to an image-text network")
    if path.is_dir() and not any((path / name).is_file() for name in (openclip.CONFIG, transformers_clip.CONFIG)):
        fix = f"Give a folder with {openclip.CONFIG} or {transformers_clip.CONFIG}"
        raise WeightsError("is no folder of an image-text network", where=path, fix=fix)
