"""What the maps of a shared encoder show of regions, as ``RegionHead`` takes it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.ov_sam.region_head import GRID
from wsi_pipeline.models.regions import among_used, box_rows, in_low_patch, pool_boxes, pool_masks
from wsi_pipeline.models.roles import Regions


def region_features(
    high: EncoderOutput, low: EncoderOutput | None, regions: Regions, *, size: int, context_factor: float | None
) -> Tensor:
    """Pool N regions of B pairs.

    Args:
        high: maps of the high patches.
        low: of the low ones; None for a head that does not look at them.
        regions: in px of the high patches.
        size: side of the patches, px.
        context_factor: how much farther the low patches see; None without them.

    Returns:
        (N, C, ``GRID``, ``GRID``) float32: the box in both maps of the high patch, in both of the low one, and the mean
        under the mask in both of the high one, the same all over the grid.
    """
    used, regions = among_used(regions)
    maps = _maps(high, used)
    rows = box_rows(regions.image_index, regions.boxes, maps.device)
    seen = [pool_boxes(maps, rows, size=size, grid=GRID)]
    if context_factor is not None:
        assert low is not None
        seen.append(pool_boxes(_maps(low, used), in_low_patch(rows, size, context_factor), size=size, grid=GRID))
    inside = pool_masks(maps, regions, size=size)
    return torch.cat([*seen, inside[:, :, None, None].expand(-1, -1, GRID, GRID)], dim=1)


def _maps(seen: EncoderOutput, images: np.ndarray) -> Tensor:
    """(b, 256 + Ve, 64, 64) float32: embedding and early map of some images."""
    return torch.cat([seen.embedding[images].float(), seen.early[images].permute(0, 3, 1, 2).float()], dim=1)
