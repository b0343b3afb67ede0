"""SAM-CLIP as a recogniser: the mean meaning of an object's tokens against the words for the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from wsi_pipeline.models.regions import pool_masks
from wsi_pipeline.models.roles import PairImages, Regions
from wsi_pipeline.models.sam_clip.model import SamClip
from wsi_pipeline.models.segmenter import PairEmbedding
from wsi_pipeline.models.text import class_scores
from wsi_pipeline.vocabulary import VocabularySettings


class SamClipRecogniser:
    """Names regions of high patches; see ``roles.Recogniser``. The low patch is not looked at.

    Args:
        model: encodes and understands.
        vocabulary: the C classes.

    Attributes:
        encoder: counts the patches it encoded.

    Raises:
        WorkflowError: the text encoder does not know a word.
    """

    uses_low_patch = False

    def __init__(self, model: SamClip, vocabulary: VocabularySettings) -> None:
        self._model, self._classes = model, model.classes(vocabulary)
        self.input_size: int | None = model.input_size
        self.class_names = vocabulary.names
        self.encoder = model.encoder

    def encode(self, pairs: PairImages) -> PairEmbedding:
        """Embed B pairs once, as for ``SamClip.decode``.

        Raises:
            ValueError: patches of another size.
        """
        return self._model.encode(pairs)

    @torch.inference_mode()
    def recognise(self, embedding: Any, regions: Regions) -> np.ndarray:
        """(N, C) float32 probabilities of the classes of N regions."""
        tokens = self._model.meaning(embedding).tokens.permute(0, 3, 1, 2)
        seen = F.normalize(pool_masks(tokens, regions, size=self._model.input_size), dim=-1)
        logits = class_scores(seen, self._classes, self._model.scale)
        return np.asarray(logits.softmax(dim=-1).cpu().numpy())
