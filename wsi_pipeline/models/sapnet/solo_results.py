"""From what the instance branch says of grids to objects.

Masks of cells are drawn a few at a time, and kept as bool or not at all, so that memory stays bounded however many
objects a patch shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

from wsi_pipeline.models.sapnet.matrix_nms import matrix_nms
from wsi_pipeline.models.sapnet.settings import SoloSettings
from wsi_pipeline.models.sapnet.solo_head import SoloMaps, by_cell
from wsi_pipeline.models.windows import cut_windows

CELL_SCORE = 0.1
"""Of the class, from which on the mask of a cell is looked at; published."""
INSIDE = 0.5
"""Probability above which a px belongs to the object."""
_PX_AT_ONCE = 1 << 21
"""Mask px that are held as floats."""


@dataclass(frozen=True, slots=True)
class Solos:
    """n objects of one patch, the best first.

    Attributes:
        scores: (n,) in [0, 1].
        labels: (n,) int64 classes from 0 on.
        boxes: (n, 4) float32 ``x0, y0, x1, y1`` px (exclusive) that hold each mask.
        kernels: (n, E).
        feature: (E, h, w): an object's mask logits are its kernel times it.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    kernels: Tensor
    feature: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def surest(self, min_score: float) -> Solos:
        """Those of this score at least."""
        count = int((self.scores >= min_score).sum())
        scores, labels, boxes, kernels = (part[:count] for part in (self.scores, self.labels, self.boxes, self.kernels))
        return Solos(scores, labels, boxes, kernels, self.feature)


def find(
    maps: SoloMaps, size: tuple[int, int], settings: SoloSettings, *, cell_score: float, max_objects: int
) -> list[Solos]:
    """The objects of each patch.

    Args:
        maps: of B patches.
        size: (height, width) px of the patches.
        settings: of the branch.
        cell_score: of the class, before the mask is looked at.
        max_objects: the most of a patch.
    """
    scores, kernels = by_cell([_peaks(one.sigmoid()) for one in maps.categories]), by_cell(maps.kernels)
    return [
        _of_patch(*one, size, settings, cell_score=cell_score, max_objects=max_objects)
        for one in zip(scores, kernels, maps.feature, strict=True)
    ]


def draw(found: Solos, size: tuple[int, int], start: Tensor, side: int) -> Tensor:
    """Masks in windows of the patch.

    Args:
        found: n objects.
        size: (height, width) px of the patch.
        start: (n, 2) int64 (x, y) px of each window's corner.
        side: of the windows, px.

    Returns:
        (n, side, side) float32 logits, above 0 inside.
    """
    step = max(1, _PX_AT_ONCE // max(found.feature[0].numel(), side**2))
    drawn = [
        cut_windows(_masks(kernels, found.feature), size, corners, side).logit(eps=1e-6)
        for kernels, corners in zip(found.kernels.split(step), start.split(step), strict=True)
    ]
    return torch.cat(drawn) if drawn else found.feature.new_zeros(0, side, side)


def _peaks(scores: Tensor) -> Tensor:
    """Scores (B, C, S, S) with 0 wherever a neighbour to the left or above has more."""
    most = F.max_pool2d(scores, 2, stride=1, padding=1)[..., :-1, :-1]
    return scores * (most == scores)


def _of_patch(
    scores: Tensor,
    kernels: Tensor,
    feature: Tensor,
    size: tuple[int, int],
    settings: SoloSettings,
    *,
    cell_score: float,
    max_objects: int,
) -> Solos:
    cells, labels = (scores > cell_score).nonzero(as_tuple=True)
    areas, clearness = _measured(kernels[cells], feature)
    large = areas > _smallest(settings).to(areas)[cells]
    cells, labels, clearness = cells[large], labels[large], clearness[large]
    judged = scores[cells, labels] * clearness
    best = judged.argsort(descending=True, stable=True)[: settings.candidates]
    kernels, labels, judged = kernels[cells[best]], labels[best], judged[best]
    masks = _inside(kernels, feature)
    final, kept = matrix_nms(
        masks,
        labels,
        judged,
        kernel=settings.nms,
        sigma=settings.nms_sigma,
        min_score=settings.min_score,
        most=max_objects,
    )
    return Solos(final, labels[kept], _boxes(masks, size)[kept], kernels[kept], feature)


def _smallest(settings: SoloSettings) -> Tensor:
    """(cells,) area up to which a mask of each cell is dropped."""
    return torch.tensor(settings.smallest).repeat_interleave(torch.tensor(settings.grids) ** 2)


def _masks(kernels: Tensor, feature: Tensor) -> Tensor:
    """(n, h, w) probabilities."""
    return (kernels @ feature.flatten(1)).sigmoid_().unflatten(1, feature.shape[1:])


def _chunks(kernels: Tensor, feature: Tensor) -> tuple[Tensor, ...]:
    return kernels.split(max(1, _PX_AT_ONCE // feature[0].numel()))


def _measured(kernels: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Area (n,) in cells of each mask, and how clear it is: the mean probability inside."""
    areas, sums = [], []
    for some in _chunks(kernels, feature):
        p = _masks(some, feature)
        inside = p > INSIDE
        areas.append(inside.sum(dim=(1, 2)).float())
        sums.append((p * inside).sum(dim=(1, 2)))
    area = torch.cat(areas)
    return area, torch.cat(sums) / area.clamp(min=1)


def _inside(kernels: Tensor, feature: Tensor) -> Tensor:
    """(n, h, w) bool."""
    masks = torch.empty(len(kernels), *feature.shape[1:], dtype=torch.bool, device=feature.device)
    begin = 0
    for some in _chunks(kernels, feature):
        masks[begin : begin + len(some)] = _masks(some, feature) > INSIDE
        begin += len(some)
    return masks


def _boxes(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) px of masks (n, h, w), half a cell larger: as far as enlarged masks can reach."""
    height, width = size
    scale = torch.tensor([width / masks.shape[2], height / masks.shape[1]] * 2, device=masks.device)
    grown = masks_to_boxes(masks) + torch.tensor([-0.5, -0.5, 1.5, 1.5], device=masks.device)
    limit = torch.tensor([width, height] * 2, device=masks.device)
    return torch.minimum((grown * scale).clamp(min=0), limit)
