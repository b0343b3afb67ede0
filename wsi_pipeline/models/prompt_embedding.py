"""Prompts as tensors: from the arrays of a ``PromptBatch`` to what the mask decoder takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from segment_anything.modeling.prompt_encoder import PromptEncoder
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.models.roles import PromptBatch


@dataclass(frozen=True, slots=True)
class PromptTensors:
    """P prompts on each of B images, all of the same make-up, float32.

    Attributes:
        boxes: (B, P, 4) px of the patch, or None.
        points: (B, P, K, 2) px of the patch, or None.
        point_labels: (B, P, K) int64, 1 inside, 0 outside, -1 padding; None when ``points`` is.
        masks: (B, P, M, M) coarse logits, or None.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None
    masks: Tensor | None = None

    @classmethod
    def of(cls, prompts: PromptBatch, rows: np.ndarray, device: torch.device) -> PromptTensors:
        """The prompts of a batch with numbers ``rows`` (B, P)."""

        def pick(values: np.ndarray | None, dtype: type = np.float32) -> Tensor | None:
            return None if values is None else torch.from_numpy(np.asarray(values[rows], dtype)).to(device)

        return cls(
            boxes=pick(prompts.boxes),
            points=pick(prompts.points),
            point_labels=pick(prompts.point_labels, np.int64),
            masks=pick(prompts.masks),
        )

    @property
    def leading(self) -> torch.Size:
        """(B, P)."""
        return next(t.shape[:2] for t in (self.boxes, self.points, self.masks) if t is not None)

    def all_of_them(self) -> Tensor:
        """(B, P) bool, all true."""
        device = next(t.device for t in (self.boxes, self.points, self.masks) if t is not None)
        return torch.ones(self.leading, dtype=torch.bool, device=device)

    def ambiguous(self) -> Tensor | None:
        """(B, P) bool: prompts of a single point; None when there are none."""
        if self.boxes is not None or self.masks is not None or self.point_labels is None:
            return None
        single = (self.point_labels != -1).sum(dim=-1) == 1
        return single if bool(single.any()) else None

    def in_low_patch(self, size: int, context_factor: float, *, floor: bool = False) -> PromptTensors:
        """The same prompts in the low patch of a pair.

        Args:
            size: S, side of both patches in px.
            context_factor: c; a point p goes to ``p / c + S/2 (1 - 1/c)``.
            floor: round ``p / c`` down, as WSI-SAM's published inference does.
        """
        corner = size / 2 * (1 - 1 / context_factor)

        def move(xy: Tensor | None) -> Tensor | None:
            if xy is None:
                return None
            scaled = xy / context_factor
            return (scaled.floor() if floor else scaled) + corner

        masks = None if self.masks is None else _shrink_masks(self.masks, context_factor)
        return replace(self, boxes=move(self.boxes), points=move(self.points), masks=masks)


def _shrink_masks(masks: Tensor, context_factor: float) -> Tensor:
    """Masks over the high patch as masks over the low patch; each one's smallest logit where nothing is known."""
    side = masks.shape[-1]
    inner = round(side / context_factor)
    small = F.interpolate(masks, (inner, inner), mode="bilinear", antialias=True, align_corners=False)
    low = masks.amin(dim=(-2, -1), keepdim=True).expand_as(masks).clone()
    start = (side - inner) // 2
    low[..., start : start + inner, start : start + inner] = small
    return low


class EmbeddedPrompts(NamedTuple):
    """What the prompt encoder makes of B x P prompts.

    Attributes:
        sparse: (B, P, K, 256) float32, points then box.
        padding: (B, P, K) bool, True for tokens that only fill the batch; None when there are none.
        dense: (B * P, 256, 64, 64) float32 when the prompts have masks, else (1, 256, 64, 64) for all of them.
    """

    sparse: Tensor
    padding: Tensor | None
    dense: Tensor


def embed_prompts(encoder: PromptEncoder, prompts: PromptTensors) -> EmbeddedPrompts:
    """Run the prompt encoder on prompts of one make-up.

    A point with label -1 only fills the batch and must be hidden from the transformer; the token of that kind that
    SAM itself adds after points without a box is a real one and stays visible.
    """
    points = None
    padding = None
    if prompts.points is not None:
        assert prompts.point_labels is not None
        points = (prompts.points.flatten(0, 1), prompts.point_labels.flatten(0, 1))
        padding = prompts.point_labels == -1
        own_tokens = 2 if prompts.boxes is not None else 1
        padding = F.pad(padding, (0, own_tokens)) if bool(padding.any()) else None
    sparse, dense = encoder(
        points=points,
        boxes=_map(prompts.boxes, lambda boxes: boxes.flatten(0, 1)),
        masks=_map(prompts.masks, lambda masks: masks.flatten(0, 1).unsqueeze(1)),
    )
    if prompts.masks is None:
        dense = dense[:1]
    return EmbeddedPrompts(sparse.unflatten(0, prompts.leading), padding, dense)


def _map(value: Tensor | None, change: Callable[[Tensor], Tensor]) -> Tensor | None:
    return None if value is None else change(value)
