"""Prompts as the decoder is asked them: one box or one click each; further points say which of the answers is meant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import PromptError
from wsi_pipeline.models.roles import PromptBatch
from wsi_pipeline.models.semantic_sam.answers import BOX, POINT, Features
from wsi_pipeline.models.semantic_sam.decoder import Judged, draw_at

_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Asked:
    """N prompts.

    Attributes:
        boxes: (N, 4) float32 cx, cy, w, h as shares of the patch; of clicks only the centre counts.
        kinds: (N,) int64 ``BOX`` or ``POINT``.
        points: (N, K, 2) float32 x, y as shares of the patch; K may be 0.
        labels: (N, K) int64, 1 inside, 0 outside, -1 for none.
        levels: (N,) int64 the level that each asks for; None where the surest answer is wanted.
    """

    boxes: Tensor
    kinds: Tensor
    points: Tensor
    labels: Tensor
    levels: Tensor | None

    @classmethod
    def of(cls, prompts: PromptBatch, size: int, device: torch.device) -> Asked:
        """Prompts on patches of ``size`` px; a box counts more than points, of points the first inside.

        Raises:
            PromptError: a mask, or a prompt without a box and a point inside.
        """
        if prompts.masks is not None:
            raise PromptError("the model takes no masks", where="semantic-sam", fix="Use box or point prompts")
        points, labels = _points(prompts)
        if prompts.boxes is not None:
            corners = torch.from_numpy(np.asarray(prompts.boxes, np.float32)) / size
            boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
            kind = BOX
        else:
            inside = labels == 1
            if not inside.any(axis=1).all():
                fix = "Give every prompt a point inside, or a box"
                raise PromptError("a prompt needs a box or a point inside", where="semantic-sam", fix=fix)
            clicks = points[np.arange(len(points)), inside.argmax(axis=1)]
            boxes = F.pad(torch.from_numpy(clicks) / size, (0, 2))
            kind = POINT
        kinds = torch.full((len(prompts),), kind)
        levels = None if prompts.levels is None else torch.from_numpy(prompts.levels).to(device)
        where = torch.from_numpy(points) / size
        return cls(boxes.to(device), kinds.to(device), where.to(device), torch.from_numpy(labels).to(device), levels)

    def take(self, rows: Tensor) -> Asked:
        """Some of the prompts, in any arrangement."""
        levels = None if self.levels is None else self.levels[rows]
        return Asked(self.boxes[rows], self.kinds[rows], self.points[rows], self.labels[rows], levels)

    def best(self, judged: Judged, features: Features) -> Tensor:
        """(B, n) numbers of the answers to n prompts on B images that are surest of those that suit the points best."""
        inside = draw_at(features, judged.vectors, self.points) > 0
        said = self.labels.unsqueeze(2)
        suits = ((inside == (said == 1)) & (said != _NOWHERE)).sum(dim=-1)
        return judged.quality.masked_fill(suits < suits.amax(dim=-1, keepdim=True), -torch.inf).argmax(dim=-1)


def _points(prompts: PromptBatch) -> tuple[np.ndarray, np.ndarray]:
    if prompts.points is None or prompts.point_labels is None:
        return np.zeros((len(prompts), 0, 2), np.float32), np.zeros((len(prompts), 0), np.int64)
    return np.asarray(prompts.points, np.float32), np.asarray(prompts.point_labels, np.int64)
