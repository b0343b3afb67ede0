"""The published checkpoints: what is trained beside the image-text network, under its published names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling.prompt_encoder import PromptEncoder
from torch import Tensor, nn

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.backbones.vit import PATCH
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.mask_decoder import CHANNELS
from wsi_pipeline.models.ov_sam.adapter import Sam2ClipAdapter
from wsi_pipeline.models.ov_sam.head import OpenVocabularyDecoder
from wsi_pipeline.models.ov_sam.pyramid import STRIDES, FeaturePyramid

_FIX = "Give a clip2sam_*.pth of Open-Vocabulary SAM"


class OvSamParts(nn.Module):
    """Adapter, prompt encoder, pyramid and decoder, named as in the CLIP2SAM checkpoints.

    Args:
        in_channels: of the image-text network's maps, fine to coarse.
        dim: D, of its vectors.
        pyramid_channels: of the pyramid's levels.
        adapter: other arguments of ``Sam2ClipAdapter``.
    """

    def __init__(self, in_channels: Sequence[int], dim: int, pyramid_channels: int = CHANNELS, **adapter: Any) -> None:
        super().__init__()
        self.neck = Sam2ClipAdapter(in_channels, STRIDES, **adapter)
        grid = self.neck.pos_embed.shape[1]
        self.image_size = grid * PATCH
        self.pe = PromptEncoder(
            embed_dim=CHANNELS,
            image_embedding_size=(grid, grid),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=16,
        )
        self.fpn_neck = FeaturePyramid(in_channels, pyramid_channels)
        self.mask_decoder = OpenVocabularyDecoder(dim, pyramid_channels)


def load_parts(path: Path) -> OvSamParts:
    """A CLIP2SAM checkpoint, fp32, on the CPU, in evaluation mode; sizes are those of its parameters.

    Raises:
        WeightsError: no such file, damaged, with pickled code, or of another network.
    """
    state = read_state_dict(path)
    if any(key.startswith("neck_student.") for key in state):
        raise WeightsError("holds the adapter alone, which names nothing", where=path, fix=_FIX)
    # the frozen image-text network is read from its own file, which has its words, too
    own = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    channels = _channels(own, "neck.", path)
    dim, pyramid_channels = _of(own, "mask_decoder.roi_conv.0.conv.weight", path).shape[:2]
    with torch.device("meta"):
        parts = OvSamParts(channels, dim, pyramid_channels, **_adapter_sizes(own, "neck.", path))
    load_into(parts.to_empty(device="cpu"), own, where=path)
    return parts


def load_adapter(path: Path) -> Sam2ClipAdapter:
    """The adapter of a SAM2CLIP or CLIP2SAM checkpoint; raises as ``load_parts``."""
    state = read_state_dict(path)
    prefix = "neck_student." if any(key.startswith("neck_student.") for key in state) else "neck."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    adapter = Sam2ClipAdapter(_channels(own, "", path), STRIDES, **_adapter_sizes(own, "", path))
    load_into(adapter, own, where=path)
    return adapter


def _channels(state: Mapping[str, Tensor], prefix: str, where: Path) -> list[int]:
    """Of the maps; the coarsest one is embedded by a transposed convolution, whose weight names them first."""
    shapes = [_of(state, f"{prefix}patch_embeds.{n}.projection.weight", where).shape for n in range(len(STRIDES))]
    return [shape[0 if stride > PATCH else 1] for stride, shape in zip(STRIDES, shapes, strict=True)]


def _adapter_sizes(state: Mapping[str, Tensor], prefix: str, where: Path) -> dict[str, int]:
    _, grid, _, width = _of(state, f"{prefix}pos_embed", where).shape
    blocks = {key.removeprefix(f"{prefix}blocks.").split(".")[0] for key in state if key.startswith(f"{prefix}blocks.")}
    rows, per_head = _of(state, f"{prefix}blocks.0.attn.rel_pos_h", where).shape
    return {
        "grid": grid,
        "width": width,
        "depth": len(blocks),
        "heads": width // per_head,
        "window": (rows + 1) // 2,
        "out_channels": _of(state, f"{prefix}neck.0.weight", where).shape[0],
    }


def _of(state: Mapping[str, Tensor], key: str, where: Path) -> Tensor:
    if key not in state:
        raise WeightsError(f"is no checkpoint of Open-Vocabulary SAM (no {key})", where=where, fix=_FIX)
    return state[key]
