"""Words learned by heart: the vectors of the classes that a head was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import WorkflowError
from wsi_pipeline.vocabulary import NamedClass


class ClassTable:
    """A closed vocabulary; plays ``TextEncoder``.

    Args:
        classes: the K classes, and the words that mean them.
        vectors: (K, D), one for each class.
        logit_scale: what cosines with them are multiplied by.
    """

    reads_sentences = False

    def __init__(self, classes: Sequence[NamedClass], vectors: Tensor, logit_scale: float) -> None:
        self._vectors = F.normalize(vectors.detach().float(), dim=1)
        self._row = _rows(classes)
        self._names = [one.name for one in classes]
        self.dim, self.logit_scale = self._vectors.shape[1], logit_scale
        self.name = f"table {_digest(self._row, self._vectors)}"

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(K, D) vectors of unit length of names or synonyms, whatever their case.

        Raises:
            WorkflowError: a word that no class was trained with.
        """
        rows = [self._row.get(_plain(text)) for text in texts]
        if None in rows:
            raise WorkflowError(
                f"the words {texts[rows.index(None)]} were not trained; known are {', '.join(self._names)}",
                where="recognise.classes",
                fix="Use known classes, set recognise.clip to an image-text network, or train one with text: minilm",
            )
        return self._vectors[torch.tensor(rows, device=self._vectors.device)]


def _rows(classes: Sequence[NamedClass]) -> Mapping[str, int]:
    """The number of the class that a word means; a name goes before another class's synonym."""
    rows: dict[str, int] = {}
    for number, one in enumerate(classes):
        rows[_plain(one.name)] = number
    for number, one in enumerate(classes):
        for word in one.synonyms:
            rows.setdefault(_plain(word), number)
    return rows


def _plain(word: str) -> str:
    return " ".join(word.replace("_", " ").split()).casefold()


def _digest(rows: Mapping[str, int], vectors: Tensor) -> str:
    digest = hashlib.blake2b(repr(sorted(rows.items())).encode(), digest_size=16)
    digest.update(vectors.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
