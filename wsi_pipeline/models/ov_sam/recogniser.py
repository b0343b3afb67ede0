"""Open-Vocabulary SAM on an image-text network of its own: names for regions, from its pyramid and from the network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.image_text.openclip import OpenClip
from wsi_pipeline.models.ov_sam.baselines import SeenImages, crop_map
from wsi_pipeline.models.ov_sam.ensemble import ALPHA, BETA, fuse
from wsi_pipeline.models.ov_sam.head import class_logits
from wsi_pipeline.models.ov_sam.published import OvSamParts
from wsi_pipeline.models.ov_sam.pyramid import STRIDES
from wsi_pipeline.models.ov_sam.stages import Stages, shared_stages
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.regions import box_rows, chunks, mask_px
from wsi_pipeline.models.roles import PairImages, Regions
from wsi_pipeline.models.text import class_vectors
from wsi_pipeline.vocabulary import VocabularySettings

REGIONS_AT_ONCE = 128
"""Their pooled maps are some 75 MB."""


@dataclass(slots=True)
class SeenStages:
    """B encoded images.

    Attributes:
        stages: their maps.
        pyramid: number and levels of the image that was asked about the last time.
    """

    stages: list[Stages]
    pyramid: tuple[int, list[Tensor]] | None = field(default=None)


class OpenVocabularyRecogniser:
    """Names regions of high patches; see ``roles.Recogniser``. Any masks will do, whoever drew them.

    Args:
        clip: the image-text network.
        parts: what was trained on it.
        vocabulary: the C classes.
        base: classes that ``parts`` were trained on.
        alpha: say of the network alone on these.
        beta: its say on all others.

    Attributes:
        stages: counts the patches it encoded.

    Raises:
        WeightsError: the parts are for another network.
        WorkflowError: a base class that is none of the vocabulary.
    """

    uses_low_patch = False

    def __init__(
        self,
        clip: OpenClip,
        parts: OvSamParts,
        vocabulary: VocabularySettings,
        *,
        base: Collection[str] = (),
        alpha: float = ALPHA,
        beta: float = BETA,
    ) -> None:
        check_fit(clip, parts)
        unknown = sorted(set(base) - set(vocabulary.names))
        if unknown:
            fix = "Name classes of recognise.classes"
            raise WorkflowError(f"{', '.join(unknown)} is no class", where="recognise.clip.base", fix=fix)
        self.stages = shared_stages(clip)
        self._clip = clip
        self._pyramid = placed(parts.fpn_neck, clip.device, clip.dtype).eval()
        self._head = placed(parts.mask_decoder, clip.device, torch.float32).eval()
        self.input_size: int | None = parts.image_size
        self._size = parts.image_size
        self.class_names = vocabulary.names
        self._classes = class_vectors(clip, vocabulary)
        self._base = [vocabulary.names.index(name) for name in base]
        self._alpha, self._beta = alpha, beta

    def encode(self, pairs: PairImages) -> SeenStages:
        """Embed B high patches once."""
        return SeenStages(self.stages.encode(pairs.high))

    @torch.inference_mode()
    def recognise(self, embedding: SeenStages, regions: Regions) -> np.ndarray:
        """(N, C) float32 probabilities of the classes of N regions."""
        told = np.zeros((len(regions), len(self.class_names)), np.float32)
        for image in np.unique(regions.image_index).tolist():
            rows = np.flatnonzero(regions.image_index == image)
            masks = [regions.masks[row] for row in rows.tolist()]
            here = Regions(np.zeros(len(rows), np.int64), regions.boxes[rows], masks)
            levels = self._levels(embedding, image)
            last = SeenImages(embedding.stages[image][-1].float(), self._size)
            parts = [self._probabilities(levels, last, some) for some in chunks(here, REGIONS_AT_ONCE)]
            told[rows] = torch.cat(parts).cpu().numpy()
        return told

    def _levels(self, embedding: SeenStages, image: int) -> list[Tensor]:
        if embedding.pyramid is None or embedding.pyramid[0] != image:
            embedding.pyramid = None  # two at once would be large
            embedding.pyramid = image, self._pyramid(embedding.stages[image])
        return embedding.pyramid[1]

    def _probabilities(self, levels: list[Tensor], last: SeenImages, regions: Regions) -> Tensor:
        rows = box_rows(regions.image_index, regions.boxes, self._clip.device)
        trained = class_logits(self._head.embed_regions(levels, rows, size=self._size), self._classes)
        frozen = class_logits(self._clip.encode_pooled(crop_map(self._clip, last, regions)), self._classes)
        fused = fuse(
            trained,
            frozen,
            base=self._base,
            alpha=self._alpha,
            beta=self._beta,
            valid=torch.from_numpy(large_enough(regions, STRIDES[-1])).to(trained.device),
        )
        return fused[:, :-1].softmax(dim=1)


def check_fit(clip: OpenClip, parts: OvSamParts) -> None:
    """Refuse parts that were trained on another network.

    Raises:
        WeightsError: naming what does not fit.
    """
    dim = parts.mask_decoder.dim
    if dim != clip.dim:
        fix = "Set recognise.clip to the network that the weights were trained on, e.g. RN50x16"
        raise WeightsError(f"has vectors of {clip.dim} numbers, the weights of {dim}", where=clip.name, fix=fix)


def large_enough(regions: Regions, cell: int) -> np.ndarray:
    """(N,) bool: masks that hold the middle of a map's cell of ``cell`` px; the network does not see smaller ones."""
    rows, x, y = mask_px(regions.masks, regions.boxes)
    hit = rows[(x % cell == cell // 2) & (y % cell == cell // 2)]
    return np.asarray(np.bincount(hit, minlength=len(regions)) > 0)
