"""SAM-CLIP at work: one pass of the encoder says what a patch shows, where, and draws what it is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.evidence import with_evidence
from wsi_pipeline.models.image_text import TextEncoder
from wsi_pipeline.models.placing import placed
from wsi_pipeline.models.roles import MaskBatch
from wsi_pipeline.models.sam import SamSegmenter
from wsi_pipeline.models.sam_clip.head import Meaning
from wsi_pipeline.models.sam_clip.network import MergedSam
from wsi_pipeline.models.sam_clip.prompts import Pieces, pieces_of, prompts_of
from wsi_pipeline.models.sam_clip.sight import seeing, tokens_of
from wsi_pipeline.models.segmenter import PairEmbedding
from wsi_pipeline.models.text import class_scores, class_vectors
from wsi_pipeline.vocabulary import VocabularySettings

PEAKS = 3
"""Most points of a piece that the decoder is asked with."""


class SamClip(SamSegmenter):
    """A segmenter as SAM, ``encode`` and ``decode``, that besides compares what it encoded with words.

    Args:
        network: is taken over and must not be used elsewhere.
        text: the encoder of words that the head was trained for.
        placement: as of ``BatchedSegmenter``; the head computes in float32 whatever the rest does.

    Attributes:
        scale: what cosines are multiplied by before the softmax.
    """

    def __init__(self, network: MergedSam, text: TextEncoder, **placement: Any) -> None:
        encoder = network.image_encoder
        # what the head reads has to come out of the shared encoder
        network.set_submodule("image_encoder", seeing(encoder))
        super().__init__(network, **placement)
        network.set_submodule("image_encoder", encoder)
        self._head = placed(network.clip_head, self.device, torch.float32).eval()
        self._text = text
        self.scale = float(network.logit_scale.detach().exp())

    @torch.inference_mode()
    def meaning(self, embedding: PairEmbedding) -> Meaning:
        """What B encoded patches mean, whole and token by token: (B, h, w, D)."""
        return self._head.on_map(tokens_of(embedding.high, self._head.in_dim))

    @torch.inference_mode()
    def classify(self, embedding: PairEmbedding, vocabulary: VocabularySettings) -> np.ndarray:
        """(B, K) float32 probabilities of the classes of B patches as a whole."""
        logits = class_scores(self.meaning(embedding).pooled, self.classes(vocabulary), self.scale)
        return np.asarray(logits.softmax(dim=-1).cpu().numpy())

    @torch.inference_mode()
    def text_map(self, embedding: PairEmbedding, vocabulary: VocabularySettings) -> Tensor:
        """(B, K, h, w) float32 logits of the classes, one for each token."""
        tokens = self.meaning(embedding).tokens
        logits = class_scores(tokens.flatten(0, 2), self.classes(vocabulary), self.scale)
        return logits.unflatten(0, tokens.shape[:3]).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def probability(self, text_map: Tensor) -> np.ndarray:
        """(B, K, M, M) float32 probabilities of the classes, M = ``mask_size``, of a text map."""
        side = (self.mask_size, self.mask_size)
        large = F.interpolate(text_map, side, mode="bilinear", align_corners=False)
        return np.asarray(large.softmax(dim=1).cpu().numpy())

    def pieces(self, text_map: Tensor, classes: Sequence[int], *, threshold: float, min_area: float) -> list[Pieces]:
        """What of some classes is on each patch of a text map; see ``pieces_of``."""
        return [pieces_of(one, classes, threshold=threshold, min_area=min_area) for one in self.probability(text_map)]

    def outline(self, embedding: PairEmbedding, pieces: Sequence[Pieces], *, margin: float | None = None) -> MaskBatch:
        """Draw pieces with SAM's decoder, which is asked with their boxes, peaks and masks as far as it takes them.

        What the words say of a px counts where the decoder is in doubt, see ``evidence.with_evidence``.

        Args:
            embedding: of B patches.
            pieces: of each, N in all.
            margin: see ``decode``.

        Returns:
            N masks, patch after patch.
        """
        px = self.input_size / self.mask_size
        answer = self.decode(embedding, prompts_of(pieces, self.prompt_kinds, px=px, points=PEAKS), margin=margin)
        said = _windows(np.concatenate([one.logits for one in pieces]), answer, self.input_size)
        return replace(answer, logits=with_evidence(answer.logits, said))

    def classes(self, vocabulary: VocabularySettings) -> Tensor:
        """(K, P, D) vectors of a vocabulary, see ``class_vectors``.

        Raises:
            WorkflowError: the text encoder does not know a word.
        """
        return class_vectors(self._text, vocabulary).to(self.device)


def _windows(maps: np.ndarray, answer: MaskBatch, size: int) -> np.ndarray:
    """(N, h, w) of maps (N, M, M) of patches of ``size`` px, where the masks of an answer lie."""
    if not len(maps):
        return answer.logits
    height, width = answer.logits.shape[1:]
    large = F.interpolate(torch.from_numpy(maps)[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    places = zip(large.numpy(), answer.origin, strict=True)
    return np.stack([one[y : y + height, x : x + width] for one, (x, y) in places])
