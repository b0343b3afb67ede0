"""Crops of a tile: parts that the mask generator looks at again, each on a patch as large as the model's input.

They lie where segment-anything's generator lays them: layer i cuts an image into 2^i x 2^i overlapping parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.models.roles import MaskBatch
from wsi_pipeline.segment.components import BACKGROUND
from wsi_pipeline.tiling.plan import PatchPair

NEAR_BORDER = 20
"""A mask that ends within this many tile px of a crop's border is taken for cut by it; segment-anything's number."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a tile.

    Attributes:
        x0, y0, x1, y1: where it lies, tile px.
        layer: 0 for the whole tile.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    layer: int

    @property
    def side(self) -> int:
        """Its longer side, tile px: of the square that its patch shows from its top-left corner on."""
        return max(self.x1 - self.x0, self.y1 - self.y0)

    @property
    def area(self) -> int:
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def pair(self, to_level0: Affine2D, size: int, context_factor: float) -> PatchPair:
        """The pair whose high patch of ``size`` px shows the crop; ``to_level0`` is the tile's."""
        middle = (self.x0 + self.side / 2, self.y0 + self.side / 2)
        x, y = to_level0.apply(np.array(middle)).tolist()
        px = self.side / size
        scale = (to_level0.sx * px, to_level0.sy * px)
        return PatchPair.around(x, y, scale=scale, size=size, context_factor=context_factor)


def lay_out(width: int, height: int, layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole of an image of ``width`` x ``height`` px, then the crops of each layer, column by column.

    Args:
        width, height: px.
        layers: how many there are besides the whole.
        overlap_ratio: what neighbours of the first layer share, as a share of the shorter side; halved from layer to
            layer.
    """
    crops = [Crop(0, 0, width, height, 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(width, height) * (2 / count))
        across, down = (math.ceil((overlap * (count - 1) + length) / count) for length in (width, height))
        for column, row in product(range(count), range(count)):
            x, y = column * (across - overlap), row * (down - overlap)
            crops.append(Crop(x, y, min(x + across, width), min(y + down, height), layer))
    return crops


def onto_tile(answers: MaskBatch, crop: Crop, size: int) -> MaskBatch:
    """Answers on a crop's patch of ``size`` px, in tile px: shrunk to the crop by interpolation, without averaging."""
    if crop.layer == 0:
        return answers
    import torch
    from torch.nn import functional as F

    patches = torch.from_numpy(answers.logits_on_patch(size, BACKGROUND))
    shrunk = F.interpolate(patches[:, None], (crop.side, crop.side), mode="bilinear", align_corners=False)[:, 0]
    logits = shrunk[:, : crop.y1 - crop.y0, : crop.x1 - crop.x0].numpy()
    return MaskBatch(logits, np.tile(np.array([crop.x0, crop.y0]), (len(answers), 1)), answers.iou)


def cut_by_crop(boxes: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """(N,) bool: masks that end near a border of the crop behind which the tile goes on.

    Args:
        boxes: (N, 4) ``x0, y0, x1, y1`` (exclusive), tile px.
        crop: what was looked at.
        size: side of the tile, px.
    """
    outermost = boxes - np.array([0, 0, 1, 1])
    near_crop = np.abs(outermost - np.array([crop.x0, crop.y0, crop.x1, crop.y1])) <= NEAR_BORDER
    near_tile = np.abs(outermost - np.array([0, 0, size, size])) <= NEAR_BORDER
    return np.asarray((near_crop & ~near_tile).any(axis=1))
