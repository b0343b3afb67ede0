"""Open-Vocabulary SAM on an encoder that other models share: it costs a region head, and no encoder of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from wsi_pipeline.models.builders import DTYPES, load_sam
from wsi_pipeline.models.encoding import shared_encoder
from wsi_pipeline.models.image_text import TextEncoder
from wsi_pipeline.models.image_text.class_table import ClassTable
from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.ov_sam.region_features import region_features
from wsi_pipeline.models.ov_sam.region_head import KIND, RegionHead, load_region_head
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.regions import chunks
from wsi_pipeline.models.resolve import WeightPlan
from wsi_pipeline.models.roles import PairImages, Regions
from wsi_pipeline.models.text import class_scores, class_vectors
from wsi_pipeline.vocabulary import VocabularySettings

REGIONS_AT_ONCE = 512
"""Their pooled maps are some 40 MB."""


class SeenPairs(NamedTuple):
    """B encoded pairs: the high patches, and the low ones where the head looks at them."""

    high: EncoderOutput
    low: EncoderOutput | None


class EmbeddedRecogniser:
    """Names regions of high patches; see ``roles.Recogniser``.

    Args:
        plan: see ``ov_sam_plan``.
        vocabulary: the C classes; where it has none, those that the head was trained on.
        device, dtype: where to compute, and what the encoder computes in; the head stays fp32.

    Attributes:
        encoder: counts the patches it encoded.

    Raises:
        WeightsError: a file does not fit.
        WorkflowError: a word that the head was not trained with, or the words' package is not installed.
    """

    def __init__(
        self, plan: WeightPlan, vocabulary: VocabularySettings, *, device: str = "cpu", dtype: str = "fp32"
    ) -> None:
        sam, head = load_sam(plan), load_region_head(plan.files[KIND])
        where = torch.device(device)
        self._head = placed(head, where, torch.float32).eval()
        self._factor = head.facts.context_factor
        self.uses_low_patch = self._factor is not None
        if not vocabulary.classes:
            vocabulary = vocabulary.model_copy(update={"classes": head.facts.classes})
        self._classes = class_vectors(words_of(self._head, device=device), vocabulary).to(where)
        self.class_names = vocabulary.names
        self.input_size: int | None = sam.variant.image_size
        self._size = sam.variant.image_size
        self.encoder = shared_encoder(
            sam.image_encoder, sam.variant.pixels, self._size, device=where, dtype=DTYPES[dtype]
        )

    def encode(self, pairs: PairImages) -> SeenPairs:
        """Embed B pairs once.

        Raises:
            ValueError: patches of another size, or the low ones are missing.
        """
        if not self.uses_low_patch:
            (high,) = self.encoder.encode(pairs.high)
            return SeenPairs(high, None)
        if pairs.low is None:
            raise ValueError("the head looks at pairs of patches; the low ones are missing")
        return SeenPairs(*self.encoder.encode(pairs.high, pairs.low))

    @torch.inference_mode()
    def recognise(self, embedding: SeenPairs, regions: Regions) -> np.ndarray:
        """(N, C) float32 probabilities of the classes of N regions."""
        told = [torch.zeros(0, len(self.class_names))]
        for some in chunks(regions, REGIONS_AT_ONCE):
            features = region_features(*embedding, some, size=self._size, context_factor=self._factor)
            logits = class_scores(self._head(features), self._classes, float(self._head.scale))
            told.append(logits.softmax(dim=1).cpu())
        return np.asarray(torch.cat(told).numpy())


def words_of(head: RegionHead, *, device: str = "cpu") -> TextEncoder:
    """Who tells a head what words mean.

    Raises:
        WorkflowError: the package of the sentence encoder is not installed.
        WeightsError: its weights are not the published ones.
    """
    if head.table is not None:
        return ClassTable(head.facts.classes, head.table, float(head.scale.detach()))
    from wsi_pipeline.models.image_text.minilm import MiniLm

    return MiniLm(device=device)
