"""Boxes on a pyramid as Mask R-CNN finds them (He et al. 2017; torchvision's modules), trained on what is known.

An anchor or a proposal over px that nobody annotated may show an object that has no label. It is no example of
background, and no loss depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from wsi_pipeline.models.lora_sam.tokens import POOLED

KNOWN_SHARE = 0.9
"""A box of which less is known counts neither as an object nor as background."""


@dataclass(frozen=True, slots=True)
class BoxNumbers:
    """Hyper-parameters of RSPrompter's anchor heads.

    Attributes:
        scales: sides of a level's anchors, in cells of the level.
        ratios: height / width of anchors.
        rpn_iou: from the first on an anchor shows an object, below the second background.
        box_iou: from this on a proposal shows an object.
        sampled: anchors, and proposals, of an image that the losses see.
        rpn_positive, box_positive: most of them that show objects, as shares.
        rpn_nms, box_nms: of two boxes overlapping more (IoU) the better one stays.
        proposals: kept of an image, after as many of each level.
        box_cells: side of the pooled region that boxes are judged by.
    """

    scales: tuple[int, ...] = (4, 8)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_iou: tuple[float, float] = (0.7, 0.3)
    box_iou: float = 0.5
    sampled: int = 256
    rpn_positive: float = 0.5
    box_positive: float = 0.25
    rpn_nms: float = 0.7
    box_nms: float = 0.5
    proposals: int = 1000
    box_cells: int = 7


NUMBERS = BoxNumbers()


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of an image of S px.

    Attributes:
        boxes: (N, 4) float32 ``x0, y0, x1, y1`` px.
        labels: (N,) int64 classes from 1 on.
        masks: (N, S, S) bool.
        known: (S, S) bool; elsewhere there may be anything.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    known: Tensor


class Found(NamedTuple):
    """Objects of one image.

    Attributes:
        boxes: (n, 4) float32 ``x0, y0, x1, y1`` px.
        scores: (n,) in 0..1, falling.
        labels: (n,) int64 classes from 1 on.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Shown(NamedTuple):
    """Proposals of one image that show objects.

    Attributes:
        boxes: (n, 4) px.
        truth: (n,) int64 row of ``Truth`` that each shows.
    """

    boxes: Tensor
    truth: Tensor


def known_share(boxes: Tensor, known: Tensor) -> Tensor:
    """Share (n,) of each box (n, 4), or of what of it lies in the image, that is known (S, S); 0 outside."""
    table = torch.nn.functional.pad(known.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    height, width = known.shape
    x0, x1 = boxes[:, 0].floor().clamp(0, width).long(), boxes[:, 2].ceil().clamp(0, width).long()
    y0, y1 = boxes[:, 1].floor().clamp(0, height).long(), boxes[:, 3].ceil().clamp(0, height).long()
    inside = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0)).clamp(min=1)


class KnownProposals(RegionProposalNetwork):
    """A region proposal network that learns no background where nothing is known."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, with -1 (not looked at) for background that is not known."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & (known_share(anchor, target["known"]) < KNOWN_SHARE)] = -1
        return labels, boxes


class BoxHeads(nn.Module):
    """Proposals, classes and boxes on pyramid levels.

    Args:
        width: channels of the levels.
        n_classes: C, without background.
        strides: px of each level.
        box_width: of the layers that judge a region.
        mask_head: what a subclass makes of an object's pooled region (n, width, 14, 14).
    """

    def __init__(
        self, width: int, n_classes: int, strides: Sequence[float], box_width: int, mask_head: nn.Module
    ) -> None:
        super().__init__()
        sizes = tuple(tuple(round(stride * scale) for scale in NUMBERS.scales) for stride in strides)
        anchors = AnchorGenerator(sizes, (NUMBERS.ratios,) * len(sizes))
        kept = {"training": NUMBERS.proposals, "testing": NUMBERS.proposals}
        self.rpn = KnownProposals(
            anchors,
            RPNHead(width, anchors.num_anchors_per_location()[0]),
            *NUMBERS.rpn_iou,
            NUMBERS.sampled,
            NUMBERS.rpn_positive,
            pre_nms_top_n=kept,
            post_nms_top_n=kept,
            nms_thresh=NUMBERS.rpn_nms,
        )
        names = [str(level) for level in range(len(sizes))]
        self.roi_head = RoIHeads(
            MultiScaleRoIAlign(names, NUMBERS.box_cells, sampling_ratio=2),
            TwoMLPHead(width * NUMBERS.box_cells**2, box_width),
            FastRCNNPredictor(box_width, n_classes + 1),
            NUMBERS.box_iou,
            NUMBERS.box_iou,
            NUMBERS.sampled,
            NUMBERS.box_positive,
            None,
            score_thresh=0.0,
            nms_thresh=NUMBERS.box_nms,
            detections_per_img=0,
            mask_roi_pool=MultiScaleRoIAlign(names, POOLED, sampling_ratio=2),
            mask_head=mask_head,
        )

    def placed(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The levels as regions are pooled from them."""
        return list(levels)

    def find_boxes(self, levels: Sequence[Tensor], size: int, *, min_score: float, most: int) -> list[Found]:
        """The objects of each image of ``size`` px: ``most`` at most, of a score above ``min_score``."""
        proposals, _ = self.rpn(_images(levels, size), _named(levels))
        self.roi_head.score_thresh, self.roi_head.detections_per_img = min_score, most
        found, _ = self.roi_head(_named(self.placed(levels)), proposals, [(size, size)] * len(proposals))
        return [Found(one["boxes"], one["scores"], one["labels"]) for one in found]

    def box_losses(self, levels: Sequence[Tensor], truths: Sequence[Truth]) -> tuple[dict[str, Tensor], list[Shown]]:
        """Losses of proposals and boxes, scalars, and the proposals of each image that show objects."""
        size = truths[0].known.shape[-1]
        targets = [{"boxes": one.boxes, "labels": one.labels, "known": one.known} for one in truths]
        proposals, losses = self.rpn(_images(levels, size), _named(levels), targets)
        heads = self.roi_head
        proposals = [
            boxes[known_share(boxes, one.known) >= KNOWN_SHARE] for boxes, one in zip(proposals, truths, strict=True)
        ]
        proposals, matched, labels, wanted = heads.select_training_samples(proposals, targets)
        pooled = heads.box_roi_pool(_named(self.placed(levels)), proposals, [(size, size)] * len(proposals))
        losses["loss_classifier"], losses["loss_box_reg"] = fastrcnn_loss(
            *heads.box_predictor(heads.box_head(pooled)), labels, wanted
        )
        shown = [
            Shown(boxes[label > 0], row[label > 0])
            for boxes, row, label in zip(proposals, matched, labels, strict=True)
        ]
        return losses, shown

    def of_regions(self, levels: Sequence[Tensor], size: int, boxes: Sequence[Tensor]) -> Tensor:
        """What the mask head makes of each image's boxes (n, 4): (sum of n, ...), image by image."""
        heads = self.roi_head
        pooled = heads.mask_roi_pool(_named(self.placed(levels)), list(boxes), [(size, size)] * len(boxes))
        made: Tensor = heads.mask_head(pooled)
        return made


def _named(levels: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(number): level for number, level in enumerate(levels)}


def _images(levels: Sequence[Tensor], size: int) -> ImageList:
    """Stands for the images: only their size is asked for."""
    count = len(levels[0])
    return ImageList(levels[0].new_empty(count, 0, size, size), [(size, size)] * count)
