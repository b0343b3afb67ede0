"""A trained SAPNet at work: for each click it chooses among the masks of another segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.errors import PromptError
from wsi_pipeline.models.collected import BACKGROUND_LOGIT
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.models.sam import Sam
from wsi_pipeline.models.sapnet.feature_maps import FeatureMaps
from wsi_pipeline.models.sapnet.network import SapNet
from wsi_pipeline.models.sapnet.proposals import MaskProposals, PatchEmbedding, Proposals
from wsi_pipeline.models.sapnet.selection import Clicks
from wsi_pipeline.models.segmenter import MASK_SIZE


class ClickEmbedding(NamedTuple):
    """What is kept of B encoded pairs.

    Attributes:
        asked: the proposing segmenter's.
        levels: feature maps of the high patches.
    """

    asked: PatchEmbedding
    levels: list[Tensor]


class SapNetSelector:
    """Draws the object of each click; see ``roles.Segmenter``.

    A click without a class gets the one that some proposal shows most evidence of. Clicks of one class on a patch
    know of each other, as a mask with several of them is a group.

    Args:
        network: trained.
        sam: its encoder is what the network stands on, unless it looks at pixels.
        proposals: asks the segmenter that the network learned with.
        device: where to compute.
        dtype: of the encoder; the network stays float32.

    Attributes:
        encoder: counts the patches it encoded; None where the network looks at pixels.
    """

    mask_size = MASK_SIZE
    n_guesses = 1
    prompt_kinds = frozenset({"point"})

    def __init__(
        self,
        network: SapNet,
        sam: Sam,
        proposals: MaskProposals,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.input_size = torch.device(device), sam.variant.image_size
        self.uses_low_patch, self._proposals = proposals.uses_low_patch, proposals
        self.class_names = network.settings.classes
        self._maps = FeatureMaps(network, sam, device=self.device, dtype=dtype)
        self.encoder = self._maps.encoder

    @torch.inference_mode()
    def encode(self, pairs: PairImages) -> ClickEmbedding:
        """Embed B pairs.

        Raises:
            ValueError: patches of another size, or the low ones are missing.
        """
        asked = self._proposals.encode(pairs)
        (levels,) = self._maps.of(pairs.high, len(pairs.high))
        return ClickEmbedding(asked, levels)

    @torch.inference_mode()
    def decode(
        self, embedding: ClickEmbedding, prompts: PromptBatch, *, margin: float | None = None, guesses: bool = False
    ) -> MaskBatch:
        """The chosen mask of each of N clicks, on whole patches; the predicted IoU is how sure its class is.

        Of several points the first inside the object is the click. ``margin`` and ``guesses`` change nothing.

        Raises:
            PromptError: prompts of another kind, or of a class that the network does not know.
        """
        points, labels = _clicks(prompts), self._labels(prompts)
        logits = np.full((len(points), self.input_size, self.input_size), BACKGROUND_LOGIT, np.float32)
        scores = np.zeros(len(points), np.float32)
        drawn, proposals = self._propose(embedding.asked, prompts.image_index, points)
        rows = np.flatnonzero(proposals.valid.any(axis=1))
        if len(rows):
            given = points, labels, prompts.image_index, proposals.boxes, proposals.valid, proposals.scores
            clicks = Clicks(*(torch.from_numpy(part[rows]).to(self.device) for part in given))
            chosen, scores[rows] = self._choose(embedding.levels, clicks)
            logits[rows] = drawn[rows, chosen]
        return MaskBatch(logits, np.zeros((len(points), 2), np.int64), scores)

    def _propose(self, asked: PatchEmbedding, images: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, Proposals]:
        """Logits (n, M, S, S) float16 of the proposals, and what they are."""
        size, count = self.input_size, self._proposals.count
        logits = np.empty((len(points), count, size, size), np.float16)
        parts = [Proposals.none(count, size)]
        for some, iou in self._proposals.draw(asked, images, points):
            done = sum(map(len, parts))
            logits[done : done + len(some)] = some
            parts.append(Proposals.of_logits(some, iou))
        return logits, Proposals.joined(parts)

    def _choose(self, levels: Sequence[Tensor], clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores (n,) of the chosen proposals; a click of no class takes the one of most evidence."""
        named, size = clicks.labels != _NO_CLASS, (self.input_size, self.input_size)
        tried = range(len(self.class_names)) if not named.all() else (0,)
        choices = [
            self._maps.network.select(levels, replace(clicks, labels=clicks.labels.where(named, label)), size)
            for label in tried
        ]
        scores, best = torch.stack([one.score for one in choices]).max(dim=0)
        masks = torch.stack([one.mask for one in choices]).gather(0, best[None])[0]
        return masks.cpu().numpy(), scores.cpu().numpy()

    def _labels(self, prompts: PromptBatch) -> np.ndarray:
        """(N,) int64 classes from 0 on, ``_NO_CLASS`` where nobody said."""
        names = [""] * len(prompts) if prompts.classes is None else prompts.classes.tolist()
        unknown = sorted(set(names) - {"", *self.class_names})
        if unknown:
            fix = (
                f"Give these points one of its classes ({', '.join(self.class_names)}), or none, or train it with them"
            )
            raise PromptError(f"knows no class {', '.join(unknown)}", where="sapnet-select", fix=fix)
        return np.array([self.class_names.index(name) if name else _NO_CLASS for name in names], np.int64)


_NO_CLASS = -1


def _clicks(prompts: PromptBatch) -> np.ndarray:
    """(N, 2) float32 the first point inside each object.

    Raises:
        PromptError: prompts of another kind.
    """
    if prompts.points is None or prompts.point_labels is None or prompts.boxes is not None or prompts.masks is not None:
        raise PromptError("takes points alone", where="sapnet-select", fix="Use points, or another model")
    return prompts.points[np.arange(len(prompts)), (prompts.point_labels == 1).argmax(axis=1)].astype(np.float32)
