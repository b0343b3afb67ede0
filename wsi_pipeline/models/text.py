"""From the words of a vocabulary to one logit for each class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.image_text import TextEncoder
from wsi_pipeline.vocabulary import VocabularySettings

_SENTENCES_AT_ONCE = 256
_KEPT = 8
"""Vocabularies; a worker seldom has more than one."""

_vectors: dict[str, Tensor] = {}


def class_vectors(text: TextEncoder, vocabulary: VocabularySettings) -> Tensor:
    """What the classes of a vocabulary mean: every synonym in every template, normalised, averaged, normalised again.

    Computed once in a process for an encoder, templates and names.

    Args:
        text: asked for the words alone where it reads no sentences.
        vocabulary: K classes; the one with the most synonyms has P.

    Returns:
        (K, P, D) float32 of unit length; a class with fewer synonyms repeats its first one.

    Raises:
        WorkflowError: the encoder does not know a word.
    """
    templates = vocabulary.templates if text.reads_sentences else ("{}",)
    synonyms = [one.synonyms for one in vocabulary.classes]
    key = _digest(text.name, templates, synonyms)
    if key not in _vectors:
        while len(_vectors) >= _KEPT:
            _vectors.pop(next(iter(_vectors)))
        _vectors[key] = _computed(text, templates, synonyms)
    return _vectors[key]


def class_scores(vectors: Tensor, classes: Tensor, scale: float) -> Tensor:
    """Logits (N, K) of N vectors (N, D): ``scale`` times the best cosine over the synonyms of each class.

    Args:
        vectors: of unit length.
        classes: (K, P, D) of unit length.
        scale: e.g. the encoder's ``logit_scale``.
    """
    cosines = vectors @ classes.flatten(0, 1).to(vectors).mT
    return scale * cosines.unflatten(1, classes.shape[:2]).amax(dim=2)


@torch.no_grad()
def _computed(text: TextEncoder, templates: Sequence[str], synonyms: Sequence[Sequence[str]]) -> Tensor:
    words = list(dict.fromkeys(word for words in synonyms for word in words))
    sentences = [template.replace("{}", word) for word in words for template in templates]
    parts = [
        text.encode_text(sentences[start : start + _SENTENCES_AT_ONCE])
        for start in range(0, len(sentences), _SENTENCES_AT_ONCE)
    ]
    said = F.normalize(torch.cat(parts).float(), dim=1).unflatten(0, (len(words), len(templates)))
    meanings = F.normalize(said.mean(dim=1), dim=1)
    most, row = max(map(len, synonyms)), {word: number for number, word in enumerate(words)}
    padded = [[*words, *[words[0]] * (most - len(words))] for words in synonyms]
    return meanings[torch.tensor([[row[word] for word in words] for words in padded], device=meanings.device)]


def _digest(*facts: object) -> str:
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
