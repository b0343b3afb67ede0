"""What maps of images show within regions: boxes pooled to small grids, and means under masks.

All regions are pooled at once; give them in parts, see ``chunks``: what is made is as large as regions times map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from wsi_pipeline.models.roles import Regions


def chunks(regions: Regions, count: int) -> Iterator[Regions]:
    """The regions, at most ``count`` at a time, in their order."""
    for start in range(0, len(regions), count):
        rows = slice(start, start + count)
        yield Regions(regions.image_index[rows], regions.boxes[rows], regions.masks[rows])


def among_used(regions: Regions) -> tuple[np.ndarray, Regions]:
    """Numbers of the images that regions lie in, and the regions with their images numbered among these."""
    used, image_index = np.unique(regions.image_index, return_inverse=True)
    return used, Regions(image_index, regions.boxes, regions.masks)


def box_rows(image_index: np.ndarray, boxes: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(N, 5) float32: the image and ``x0, y0, x1, y1`` of boxes (N, 4), as region pooling wants them."""
    return torch.from_numpy(np.column_stack([image_index, boxes]).astype(np.float32)).to(device)


def in_low_patch(rows: Tensor, size: int, context_factor: float) -> Tensor:
    """Rows of ``box_rows`` in px of the pairs' low patches, whose side S is ``size``: p goes to (p - S/2)/c + S/2."""
    middle = size / 2
    return torch.cat([rows[:, :1], (rows[:, 1:] - middle) / context_factor + middle], dim=1)


def pool_boxes(maps: Tensor, rows: Tensor, *, size: int, grid: int) -> Tensor:
    """What maps show in boxes, each on a grid of its own, whatever its size.

    Args:
        maps: (B, C, h, w) of images whose side is ``size`` px.
        rows: (N, 5), see ``box_rows``, px of the images.
        size: side of the images, px.
        grid: g, side of the grids.

    Returns:
        (N, C, g, g) float32.
    """
    return roi_align(maps.float(), rows, (grid, grid), spatial_scale=maps.shape[-1] / size, aligned=True)


def pool_masks(maps: Tensor, regions: Regions, *, size: int) -> Tensor:
    """Means of maps under masks, every px of a mask counting the map's cell it lies in.

    Args:
        maps: (B, C, h, w), h = w, of images whose side is ``size`` px.
        regions: N masks; an empty one gives zeros.
        size: side of the images, px.

    Returns:
        (N, C) float32.
    """
    used, regions = among_used(regions)
    side = maps.shape[-1]
    cells = maps[used].float().permute(0, 2, 3, 1).flatten(0, 2)
    rows, x, y = mask_px(regions.masks, regions.boxes)
    where = (regions.image_index[rows] * side + y * side // size) * side + x * side // size
    shape = len(regions), len(cells)
    px = np.bincount(rows * len(cells) + where, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float32)
    shares = px / np.maximum(px.sum(axis=1, keepdims=True), 1)
    return torch.from_numpy(shares).to(maps.device) @ cells


def mask_px(masks: Sequence[np.ndarray], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The px of N masks, one after the other: number of the mask, and x and y in the frame of the boxes.

    Args:
        masks: N bool arrays, each (y1 - y0, x1 - x0) of its box.
        boxes: (N, 4) int64 ``x0, y0, x1, y1``.
    """
    if not len(masks):
        return (np.zeros(0, np.int64),) * 3
    px = np.flatnonzero(np.concatenate([mask.ravel() for mask in masks]))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    ends = np.cumsum(width * height)
    rows = np.repeat(np.arange(len(masks)), np.diff(np.searchsorted(px, ends), prepend=0))
    inside = px - (ends - width * height)[rows]
    return rows, boxes[rows, 0] + inside % width[rows], boxes[rows, 1] + inside // width[rows]
