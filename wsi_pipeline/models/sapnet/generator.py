"""Boxes around what was chosen, and boxes that show no object (Positive and Negative Proposals Generator)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from wsi_pipeline.models.sapnet.boxes import area_of, around
from wsi_pipeline.models.sapnet.selection import Choice, Clicks
from wsi_pipeline.models.sapnet.settings import SelectorSettings

_LARGER, _STEP = 15, 0.01
"""Boxes that are larger by one step more each."""
_FINE, _FINE_STEP = 5, 0.005
"""Further boxes and their steps: still larger where the chosen box is no group, else smaller."""
_EQUAL = 1.0
"""px within which a proposal is the chosen box, as published."""
_OUTSIDE = 0.2
"""Share of an image's side by which random boxes of any size may begin before it."""


class Negatives(NamedTuple):
    """K boxes that should show no object.

    Attributes:
        boxes: (K, 4) ``x0, y0, x1, y1`` px.
        image_index: (K,) int64.
        valid: (K,) bool, those that count.
    """

    boxes: Tensor
    image_index: Tensor
    valid: Tensor


def positives(first: Choice, guidance: Tensor, *, published: bool = False) -> Tensor:
    """(n, M + 20, 4) px: the boxes there were to choose from, and 20 around the chosen one, a little larger or smaller.

    Args:
        first: what was chosen.
        guidance: (n, M) S^dis, without its exponent.
        published: around the box of the set that equals the chosen one, or the last where there is none; ours: around
            the chosen box, which box mining may have made larger.
    """
    box, index = _chosen(first, published=published)
    alone = guidance.gather(1, index[:, None])
    steps = torch.arange(1, _FINE + 1, device=guidance.device)
    larger = 1 + _STEP * torch.arange(1, _LARGER + 1, device=guidance.device)
    still_larger, smaller = 1 + _FINE_STEP * (steps + _LARGER), 1 - _FINE_STEP / alone * steps
    factors = torch.cat([larger.expand(len(box), -1), torch.where(alone == 1, still_larger, smaller)], dim=1)
    centre, size = _middle(box)
    made = around(centre[:, None], size[:, None] * factors[..., None])
    return torch.cat([first.boxes, made], dim=1).clamp(min=0)


def negatives(
    first: Choice,
    clicks: Clicks,
    sizes: Tensor,
    settings: SelectorSettings,
    *,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
) -> Negatives:
    """Random boxes of each image, and the inner half of each object's box if that is large; image by image.

    Random boxes of any size are mostly much larger than nuclei, and teach no more than that objects are small. Those
    that are about as large as what is proposed show parts, neighbours and gaps, too.

    Args:
        first: what was chosen.
        clicks: n.
        sizes: (B, 2) (height, width) px of the images.
        settings: how many, and from which size on a part is a negative.
        generator: that boxes are drawn with.
        uniforms: (B, 4, N) in [0, 1) to take instead of drawing.
    """
    box, _ = _chosen(first, published=settings.published)
    if uniforms is None:
        uniforms = torch.rand(len(sizes), 4, settings.negatives, generator=generator)
    uniforms = uniforms.to(box)
    random = _random_boxes(sizes.to(box), uniforms)
    limit = math.inf if settings.part_limit is None else settings.part_limit
    large, (centre, size) = area_of(box) > limit, _middle(box)
    parts = around(centre, size / 2)
    made = []
    for image, boxes in enumerate(random):
        here = clicks.image_index == image
        proposed = clicks.proposals[here].flatten(0, 1)
        if settings.negative_sizes == "proposals":
            boxes = _boxes_like(proposed[area_of(proposed) > 0], sizes[image].to(box), uniforms[image])
        iou = box_iou(boxes, proposed)
        part = parts[here & large]
        counts = torch.cat([(iou < settings.negative_iou).all(dim=1), part.new_ones(len(part), dtype=torch.bool)])
        made.append(Negatives(torch.cat([boxes, part]), torch.full_like(counts, image, dtype=torch.int64), counts))
    return Negatives(*map(torch.cat, zip(*made, strict=True)))


def _chosen(first: Choice, *, published: bool) -> tuple[Tensor, Tensor]:
    """Box (n, 4) and number (n,) of what was chosen.

    The published code looks for the chosen box among those of the set, and where box mining has moved it, finds none
    and takes the last.
    """
    if not published:
        return first.box, first.best
    equal = ((first.boxes - first.box[:, None]).abs() <= _EQUAL).all(dim=-1)
    index = torch.where(equal.any(dim=1), equal.int().argmax(dim=1), equal.shape[1] - 1)
    return first.boxes[torch.arange(len(index), device=index.device), index], index


def _middle(box: Tensor) -> tuple[Tensor, Tensor]:
    return (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]


def _random_boxes(sizes: Tensor, uniforms: Tensor) -> Tensor:
    """(B, N, 4): the first corner anywhere up to the image's end, the second from there to a little beyond it."""
    extent = sizes.flip(1)[..., None]
    low = (uniforms[:, :2] * (1 + _OUTSIDE) - _OUTSIDE) * extent
    high = low + uniforms[:, 2:] * ((1 + _OUTSIDE) * extent - low)
    return torch.cat([low, high], dim=1).transpose(1, 2)


def _boxes_like(proposed: Tensor, size: Tensor, uniforms: Tensor) -> Tensor:
    """(N, 4) boxes of half to twice the size of proposals (P, 4), half of them near these, half anywhere; none where
    there are no proposals.

    Args:
        proposed: px.
        size: (2,) (height, width) px of the image.
        uniforms: (4, N): which proposal, how large, and where.
    """
    which, scale, *place = uniforms if len(proposed) else uniforms[:, :0]
    centre, extent = _middle(proposed[(which * len(proposed)).long()])
    extent = extent * 2 ** (2 * scale - 1)[:, None]
    where, near = torch.stack(place, dim=1), torch.arange(len(which), device=which.device) % 2 == 0
    middle = torch.where(near[:, None], centre + (2 * where - 1) * extent, where * size.flip(0))
    edge = size.flip(0).repeat(2)
    return around(middle, extent).clamp(min=0).minimum(edge)
