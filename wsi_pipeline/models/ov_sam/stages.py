"""The maps of an image-text network, which both roles of Open-Vocabulary SAM stand on.

They are large, some 190 MB for a patch and CLIP RN50x16: those of the last call alone are remembered, so that a model
that segments and one that recognises look at a patch once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.encoding import pixel_digest
from wsi_pipeline.models.image_text.openclip import OpenClip
from wsi_pipeline.models.preprocess import SAM_PIXELS, to_tensor

Stages = list[Tensor]
"""Four maps (1, C_i, H/s_i, W/s_i) of an image, fine to coarse."""
_MEMORY = 4 << 30
"""Bytes of maps that are remembered."""


class StageEncoder:
    """An image-text network with its memory.

    Args:
        clip: whose image side has four maps.

    Attributes:
        computed: patches that were encoded.
        recalled: patches that were remembered instead.
    """

    def __init__(self, clip: OpenClip) -> None:
        self.clip = clip
        self.users = self.computed = self.recalled = 0
        self._last = threading.local()

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> list[Stages]:
        """The maps of (B, S, S, 3) uint8 RGB patches."""
        keys = [pixel_digest(image) for image in images]
        last: dict[str, Stages] = getattr(self._last, "stages", {})
        known = {key: last[key] for key in keys if key in last}
        self.recalled += len(known)
        for key, image in zip(keys, images, strict=True):
            if key not in known:
                known[key] = self._compute(image)
        self._last.stages = known if self.users > 1 and _bytes_of(known.values()) <= _MEMORY else {}
        return [known[key] for key in keys]

    def _compute(self, image: np.ndarray) -> Stages:
        self.computed += 1
        # SAM's scale and not the network's own, as published
        return self.clip.encode_stages(SAM_PIXELS.apply(to_tensor(image[None], self.clip.device)))


_shared: WeakValueDictionary[tuple[str, str, torch.dtype], StageEncoder] = WeakValueDictionary()
_sharing = threading.Lock()


def shared_stages(clip: OpenClip) -> StageEncoder:
    """This process's encoder of that network."""
    with _sharing:
        key = (clip.name, str(clip.device), clip.dtype)
        found = _shared.get(key)
        if found is None:
            _shared[key] = found = StageEncoder(clip)
        found.users += 1
        return found


def _bytes_of(some: Iterable[Stages]) -> int:
    return sum(stage.nbytes for stages in some for stage in stages)
