"""Which cells of the instance branch's grids answer for which objects (SOLOv2); all objects of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wsi_pipeline.models.sapnet.boxes import area_of

_MASKS_AT_ONCE = 64
"""Masks that are held as floats."""


class SoloTargets(NamedTuple):
    """What the cells of B patches should say; they are numbered level by level and row by row, as in ``by_cell``.

    Attributes:
        labels: (B, cells) int64 classes, C for background.
        image: (P,) int64 patch of each cell that answers for an object.
        cell: (P,) int64 its number.
        object: (P,) int64 the object.
    """

    labels: Tensor
    image: Tensor
    cell: Tensor
    object: Tensor


def solo_targets(
    masks: Tensor,
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    *,
    images: int,
    classes: int,
    grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
    sigma: float = 0.2,
) -> SoloTargets:
    """Targets of all cells.

    An object is assigned to the levels in whose range its size is, which overlap, and there to the cells around its
    centre of mass, three by three at most. A cell that several objects claim answers for the last of them; in the
    published code its mask is that of all of them.

    Args:
        masks: (n, height, width) bool.
        boxes: (n, 4) px.
        labels: (n,) int64.
        image_index: (n,) int64.
        images: B.
        classes: C.
        grids: S of each level.
        scale_ranges: of each level, the least and the greatest square root of a box's area, px.
        sigma: share of a box, around the centre, whose cells answer.
    """
    size = torch.tensor([masks.shape[2], masks.shape[1]], device=masks.device)
    centre, there = _centre_of_mass(masks)
    reach = sigma / 2 * (boxes[:, 2:] - boxes[:, :2])
    scale = area_of(boxes).clamp(min=0).sqrt()
    levels, before = [], 0
    for grid, (least, greatest) in zip(grids, scale_ranges, strict=True):
        claimed = _claims(centre, reach, size, grid)
        claimed &= (there & (scale >= least) & (scale <= greatest))[:, None, None]
        objects, row, column = claimed.nonzero(as_tuple=True)
        first = _cell(centre / size, grid)[objects] - 1
        cell = before + (first[:, 1] + row) * grid + first[:, 0] + column
        levels.append((image_index[objects], cell, objects))
        before += grid**2
    image, cell, objects = (torch.cat(parts) for parts in zip(*levels, strict=True))
    owner = torch.full((images * before,), -1, device=masks.device)
    owner.scatter_reduce_(0, image * before + cell, objects, "amax")
    named = torch.full_like(owner, classes)
    named[owner >= 0] = labels[owner[owner >= 0]]
    mine = owner[image * before + cell] == objects
    return SoloTargets(named.view(images, before), image[mine], cell[mine], objects[mine])


def shrink(masks: Tensor, stride: int) -> Tensor:
    """(..., h, w) bool of masks (..., height, width) bool, bilinear and rounded.

    A cell is inside where two of the four px in its middle are.
    """
    if stride == 1:
        return masks
    middle = (stride // 2 - 1, stride // 2)
    corners = [masks[..., row::stride, column::stride].byte() for row in middle for column in middle]
    return torch.stack(corners).sum(dim=0) >= 2


def _centre_of_mass(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 2) (x, y) px, counted from the first px's middle, and (n,) bool, masks with any px."""
    down, across = (
        torch.stack([torch.ones(length), torch.arange(length, dtype=torch.float32)], dim=1).to(masks.device)
        for length in masks.shape[1:]
    )
    # of powers 0 and 1 of y and x; as matrix products they cost a fraction of sums over bool
    moments = torch.cat([down.T @ (some.float() @ across) for some in masks.split(_MASKS_AT_ONCE)])
    total = moments[:, 0, 0]
    centre = torch.stack([moments[:, 0, 1], moments[:, 1, 0]], dim=1)
    return centre / total.clamp(min=1)[:, None], total > 0


def _cell(place: Tensor, grid: int) -> Tensor:
    """Numbers along the sides of the cells of places in 0..1."""
    return (place * grid).floor().long()


def _claims(centre: Tensor, reach: Tensor, size: Tensor, grid: int) -> Tensor:
    """(n, 3, 3) bool, rows and columns around the centre's cell that are in reach of the centre."""
    near = _cell(centre / size, grid)[:, None] + torch.arange(-1, 2, device=centre.device)[:, None]
    first, last = _cell((centre - reach) / size, grid).clamp(min=0), _cell((centre + reach) / size, grid)
    inside = (near >= first[:, None]) & (near <= last.clamp(max=grid - 1)[:, None])
    return inside[:, :, None, 1] & inside[:, None, :, 0]
