"""The published network's parameters under our names.

No published checkpoint was at hand: key names are those that the code gives, and nothing more is promised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.models.checkpoints import load_into, read_state_dict
from wsi_pipeline.models.sapnet.backbone import ResNetFpn
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.settings import SapNetSettings

_COARSEST = 4
"""Number of the level that is made of the backbone's coarsest map."""
_NORMED = {"conv": "0", "gn": "1"}
_PREFIXES = {"backbone.": "backbone.body.", "roi_head.bbox_head.": "scorer.", "mask_head.": "head."}


def load_published(path: Path, classes: tuple[str, ...]) -> SapNet:
    """A checkpoint of the published configuration, fp32, on the CPU, in evaluation mode.

    Args:
        path: the file.
        classes: names of its classes, in their order.

    Raises:
        WeightsError: the file is missing, damaged, with pickled code, or of another network.
    """
    state = read_state_dict(path)
    if not any(key.startswith("roi_head.bbox_head.fc_ins.") for key in state):
        raise WeightsError("is no checkpoint of SAPNet", where=path, fix="Give the file of the published training")
    with torch.device("meta"):
        network = SapNet(ResNetFpn(), SapNetSettings.published(classes))
    network = network.to_empty(device="cpu")
    load_into(network, renamed(state), where=path)
    return network


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by our names; those of unknown names keep them."""
    return {_renamed(key): value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _renamed(key: str) -> str:
    neck = re.match(r"neck\.(lateral_convs|fpn_convs)\.(\d)\.(conv|gn)\.(\w+)$", key)
    if neck:
        part, level, layer, name = neck[1], int(neck[2]), _NORMED[neck[3]], neck[4]
        if part == "fpn_convs" and level == _COARSEST:
            return f"backbone.neck.extra_blocks.conv.{layer}.{name}"
        return f"backbone.neck.{'inner' if part == 'lateral_convs' else 'layer'}_blocks.{level}.{layer}.{name}"
    for published, own in _PREFIXES.items():
        if key.startswith(published):
            return own + key.removeprefix(published)
    return key
