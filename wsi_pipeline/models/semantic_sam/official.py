"""The published checkpoints: their keys as ours, nothing left over, and copies of one tensor found to be the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.checkpoints import State, load_into, read_state_dict
from wsi_pipeline.models.semantic_sam.model import SemanticSam

TOKENS = (3, 2, 0, 4, 1, 5)
"""The query of each level, 1 (the coarsest) to 6, as documented with the checkpoints."""

_BACKBONES = {96: "swin-t", 192: "swin-l"}
"""By rows of the first convolution."""
_FIRST = "backbone.patch_embed.proj.weight"
_HEAD = r"^sem_seg_head\.predictor\."
_OURS = (
    (re.compile(r"^sem_seg_head\.pixel_decoder\."), "pixel_decoder."),
    # one for all layers, stored with each
    (re.compile(_HEAD + r"(?:(?:decoder\.)?bbox_embed\.\d+|_bbox_embed)\."), "decoder.bbox_embed."),
    (re.compile(_HEAD + r"decoder[._]norm\."), "decoder.norm."),
    (re.compile(_HEAD + r"(?:decoder\.)?"), "decoder."),
)
_UNUSED = re.compile(
    # classes are told apart by a text encoder, without which the files were trained; indices follow from the window
    r"^(?:lang_encoder|criterion)\.|\.(?:lang_mapper|class_embed|class_embed_part|relative_position_index)$"
)


def load_official(path: Path) -> SemanticSam:
    """The network of a published checkpoint, fp32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: it cannot be read, is of another kind, or does not fit.
    """
    state = our_state(read_state_dict(path), where=path)
    if _FIRST not in state or state[_FIRST].shape[0] not in _BACKBONES:
        fix = "Give what `wsi-pipeline train semantic-sam` wrote, or a swint_ or swinl_only_sam_many2many.pth"
        raise WeightsError("is no Semantic-SAM", where=path, fix=fix)
    network = SemanticSam(_BACKBONES[state[_FIRST].shape[0]])
    load_into(network, state, where=path)
    return network


def our_state(published: Mapping[str, Tensor], *, where: object) -> State:
    """A published state under our keys, without what is not used.

    Raises:
        WeightsError: copies of one tensor differ.
    """
    state: State = {}
    for key, tensor in published.items():
        key = key.removeprefix("model.")
        if _UNUSED.search(key):
            continue
        ours = _ours(key)
        if ours in state and not torch.equal(state[ours], tensor):
            fix = "Give the published file"
            raise WeightsError(f"stores {ours} several times with different values", where=where, fix=fix)
        state[ours] = tensor
    return state


def _ours(key: str) -> str:
    for published, ours in _OURS:
        key, found = published.subn(ours, key)
        if found:
            break
    return key
