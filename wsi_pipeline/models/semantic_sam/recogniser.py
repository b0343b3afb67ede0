"""Semantic-SAM's heads as a recogniser: a region is what they say of the answer that is most like it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.regions import mask_px
from wsi_pipeline.models.roles import PairImages, PromptBatch, Regions
from wsi_pipeline.models.semantic_sam.decoder import draw
from wsi_pipeline.models.semantic_sam.segmenter import Said, SemanticEmbedding, SemanticSegmenter


class SemanticRecogniser:
    """Names regions of high patches; see ``roles.Recogniser``.

    Args:
        segmenter: is asked about each region with its box.
        classes: the C classes.
        columns: of each class, its number among those of its head.
        parts: whether the head is that of parts, or that of objects.
    """

    uses_low_patch = False

    def __init__(self, segmenter: SemanticSegmenter, classes: Sequence[str], columns: Sequence[int], *, parts: bool):
        self.class_names, self.encoder = tuple(classes), segmenter.encoder
        self.input_size: int | None = segmenter.input_size
        self._segmenter, self._size, self._columns = segmenter, segmenter.input_size, list(columns)
        self._head = "parts" if parts else "objects"

    def encode(self, pairs: PairImages) -> SemanticEmbedding:
        """Embed B pairs once."""
        return self._segmenter.encode(pairs)

    @torch.inference_mode()
    def recognise(self, embedding: SemanticEmbedding, regions: Regions) -> np.ndarray:
        """(N, C) float32 probabilities of the classes of N regions."""
        told = np.zeros((len(regions), len(self.class_names)), np.float32)
        prompts = PromptBatch(regions.image_index, boxes=regions.boxes.astype(np.float32))
        for said in self._segmenter.ask(embedding, prompts, np.ones(len(regions), np.int64)):
            logits: Tensor = getattr(said.judged, self._head)[..., self._columns]
            alike = self._most_alike(said, regions)
            probabilities = logits.take_along_dim(alike[..., None, None], dim=2).squeeze(2).softmax(dim=-1)
            told[said.rows] = probabilities.cpu().numpy()
        return told

    def _most_alike(self, said: Said, regions: Regions) -> Tensor:
        """(b, p) number of the answer that shares most with each region, by IoU."""
        rows, cells = said.rows.ravel(), said.features.masks.shape[-1]
        covered = self._covered(Regions(rows, regions.boxes[rows], [regions.masks[row] for row in rows]), cells)
        region = covered.to(said.features.masks.device).unflatten(0, said.rows.shape).unsqueeze(2)
        answer = (draw(said.features, said.judged.vectors) > 0).float()
        shared = torch.minimum(region, answer).sum(dim=(-2, -1))
        return (shared / torch.maximum(region, answer).sum(dim=(-2, -1))).argmax(dim=-1)

    def _covered(self, regions: Regions, cells: int) -> Tensor:
        """(n, cells, cells) float32 share of each cell of the patch that a region covers."""
        rows, x, y = mask_px(regions.masks, regions.boxes)
        where = (rows * cells + y * cells // self._size) * cells + x * cells // self._size
        px = np.bincount(where, minlength=len(regions) * cells**2).reshape(-1, cells, cells)
        return torch.from_numpy(px.astype(np.float32)) * (cells / self._size) ** 2
