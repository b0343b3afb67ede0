"""SAPNet as a whole: feature maps, who chooses among proposals, and the instance branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from wsi_pipeline.models.sapnet.backbone import ImagePyramid
from wsi_pipeline.models.sapnet.generator import Negatives, negatives, positives
from wsi_pipeline.models.sapnet.guidance import point_distance_guidance
from wsi_pipeline.models.sapnet.refinement import (
    likelihoods,
    nearest_proposal,
    ranked_proposals,
    refine_proposals,
)
from wsi_pipeline.models.sapnet.scorer import ProposalScorer
from wsi_pipeline.models.sapnet.scores import of_label
from wsi_pipeline.models.sapnet.selection import Choice, Clicks, select_proposals
from wsi_pipeline.models.sapnet.settings import SapNetSettings
from wsi_pipeline.models.sapnet.solo_head import LEVELS, SoloHead
from wsi_pipeline.models.sapnet.solo_results import CELL_SCORE, Solos, find

Size = tuple[int, int]
"""(height, width) px of patches."""


class Backbone(Protocol):
    """A network that makes feature maps."""

    strides: tuple[float, ...]
    """px of each map, the finest first; the instance branch needs ``LEVELS`` that double."""

    def __call__(self, x: Any) -> list[Tensor]:
        """Maps (B, width, ...) of what it takes: an encoder's output, or images."""
        ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """The masks that n clicks stand for, and how they were chosen.

    Attributes:
        first: choice of stage one.
        second: choice of stage two; None where the selector does not refine.
        negatives: K boxes that should show no object, and their class logits (K, C); None but for training.
        box: (n, 4) the final box, px, or that of the chosen mask.
        mask: (n,) int64 the proposal that was chosen.
        ranks: (n, M) int64 the proposals by falling score.
        score: (n,) in [0, 1], probability of the click's class in that box.
    """

    first: Choice
    second: Choice | None
    negatives: tuple[Negatives, Tensor] | None
    box: Tensor
    mask: Tensor
    ranks: Tensor
    score: Tensor


class SapNet(nn.Module):
    """The network.

    Args:
        backbone: makes the feature maps, of ``settings.width`` channels; a ``Backbone``.
        settings: of the parts.
    """

    def __init__(self, backbone: nn.Module, settings: SapNetSettings) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = backbone
        classes, selector, solo = len(settings.classes), settings.selector, settings.solo
        self.strides = cast(Backbone, backbone).strides
        self.scorer = ProposalScorer(settings.width, classes, self.strides[0], roi=selector.roi, hidden=selector.hidden)
        self.head: SoloHead | None = None
        if settings.instances:
            assert len(self.strides) == LEVELS
            self.head = SoloHead(
                classes, settings.width, solo.channels, solo.stacked, solo.kernel, solo.mask_channels, solo.grids
            )

    @property
    def takes_pixels(self) -> bool:
        """Whether its backbone looks at patches, (B, 3, H, W) float32 0..255; else at what a frozen encoder gives."""
        return isinstance(self.backbone, ImagePyramid)

    def levels(self, x: Any) -> list[Tensor]:
        """Feature maps of B patches, the finest first, float32."""
        return [level.float() for level in self.backbone(x)]

    def select(
        self, levels: Sequence[Tensor], clicks: Clicks, size: Size, *, generator: torch.Generator | None = None
    ) -> Chosen:
        """Choose a proposal for each click.

        Args:
            levels: of the B patches.
            clicks: on them, one at least.
            size: of the patches.
            generator: draws negatives, for training; None for none.
        """
        settings, images = self.settings.selector, clicks.image_index
        guidance = point_distance_guidance(clicks.points, clicks.labels, images, clicks.proposals)
        seen = self.scorer.look(levels, clicks.proposals, images)
        classes, shares = self.scorer.judge(seen, 0)
        first = select_proposals(classes, shares, clicks, guidance, settings)
        if not settings.refine:
            return self._chosen(clicks, guidance, first, None, None)
        boxes = positives(first, guidance, published=settings.published)
        made = self.scorer.look(levels, boxes[:, seen.shape[1] :], images)
        classes, shares = self.scorer.judge(torch.cat([seen, made], dim=1), 1)
        second = refine_proposals(classes, shares, clicks, boxes, settings)
        if generator is None:
            return self._chosen(clicks, guidance, first, second, None)
        sizes = torch.tensor([size] * len(levels[0]), device=boxes.device)
        none = negatives(first, clicks, sizes, settings, generator=generator)
        logits, _ = self.scorer.judge(self.scorer.look(levels, none.boxes, none.image_index), 1)
        return self._chosen(clicks, guidance, first, second, (none, logits))

    def _chosen(
        self,
        clicks: Clicks,
        guidance: Tensor,
        first: Choice,
        second: Choice | None,
        none: tuple[Negatives, Tensor] | None,
    ) -> Chosen:
        last = second or first
        # as each stage's loss reads the logits
        classes = last.cls_logits.sigmoid() if second else last.cls_logits.softmax(dim=-1)
        evidence = of_label(classes, clicks.labels)
        if self.settings.selector.evidence is None:
            box, mask, row = last.box, nearest_proposal(last.box, clicks), last.best
            ranks = ranked_proposals(last.scores, clicks)
        else:
            of_proposals = evidence[:, : clicks.proposals.shape[1]]
            ranks = ranked_proposals(likelihoods(of_proposals, clicks, guidance, self.settings.selector), clicks)
            mask = row = ranks[:, 0]
            box = clicks.proposals[torch.arange(len(mask), device=mask.device), mask]
        return Chosen(first, second, none, box, mask, ranks, evidence.gather(1, row[:, None])[:, 0])

    def predict(
        self, levels: Sequence[Tensor], size: Size, *, min_score: float = 0.1, max_objects: int = 1000
    ) -> list[Solos]:
        """The objects of each of B patches, without clicks.

        Args:
            levels: of the patches.
            size: of the patches.
            min_score: objects need this score, once better ones of their class have lowered it.
            max_objects: the most of a patch.
        """
        assert self.head is not None
        solo, cell_score = self.settings.solo, min(CELL_SCORE, min_score)
        found = find(self.head(levels), size, solo, cell_score=cell_score, max_objects=max_objects)
        return [one.surest(min_score) for one in found]
