"""Automatic masks are those of ``segment_anything.SamAutomaticMaskGenerator``, asked with the same model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as OfficialSam
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes, remove_small_regions
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.precision import reference_pair
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.models.sam import Sam, SamSegmenter, build_sam
from wsi_pipeline.prompts.grid import grid_points
from wsi_pipeline.segment.automatic import MaskFinder
from wsi_pipeline.segment.candidates import Candidate
from wsi_pipeline.segment.crops import Crop, lay_out
from wsi_pipeline.segment.ground import Ground
from wsi_pipeline.segment.small_regions import without_small_regions
from wsi_pipeline.workflow import GridPrompts

MPP = 0.5
SQUARE = 0.375
"""A share of overlap that makes all crops of a tile square, so that both sides enlarge them alike."""


def both(segmenter: Any, official: OfficialSam, image: np.ndarray, **options: Any) -> tuple[list, list[Candidate]]:
    """What the official generator and ours find on an image with the same settings; its own area is in px."""
    generator = SamAutomaticMaskGenerator(official, **options)
    area = options.pop("min_mask_region_area", 0) * MPP**2
    asked = GridPrompts(source="grid", min_mask_region_area=f"{area} um2", **options)
    size = segmenter.input_size
    resize = ResizeLongestSide(size)

    def read(crop: Crop) -> PairImages:
        patch = np.zeros((size, size, 3), np.uint8)
        enlarged = resize.apply_image(image[crop.y0 : crop.y1, crop.x0 : crop.x1])
        patch[: enlarged.shape[0], : enlarged.shape[1]] = enlarged
        return PairImages(patch[None])

    finder = MaskFinder(segmenter, asked, nms_iou=1)
    return generator.generate(image), finder.find(PairImages(image[None]), Ground.whole(size, MPP), read)


def drawn(one: Candidate, size: int) -> np.ndarray:
    canvas = np.zeros((size, size), bool)
    x0, y0, x1, y1 = one.box
    canvas[y0:y1, x0:x1] = one.mask
    return canvas


def likeness(theirs: list[dict[str, Any]], ours: list[Candidate]) -> tuple[np.ndarray, np.ndarray]:
    """For each of their masks the best IoU with one of ours, and how far the two scores of the pair differ."""
    size = len(theirs[0]["segmentation"])
    mine = np.stack([drawn(one, size) for one in ours]).reshape(len(ours), -1)
    scores = np.array([(one.iou, one.stability) for one in ours])
    overlap, apart = [], []
    for one in theirs:
        mask = one["segmentation"].ravel()
        common = np.count_nonzero(mine & mask, axis=1)
        iou = common / np.count_nonzero(mine | mask, axis=1)
        differs = np.abs(scores - (one["predicted_iou"], one["stability_score"])).max(axis=1)
        best = np.lexsort((differs, -iou))[0]
        overlap.append(iou[best])
        apart.append(differs[best])
    return np.array(overlap), np.array(apart)


# --- a model that costs next to nothing -----------------------------------------------------------------------------


def discs(points: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Three guesses per point: rippled discs, sized and judged by the image's colour there.

    Args:
        points: (N, 2) px of the image.
        image: (3, S, S) pixels 0..255.

    Returns:
        (N, 3, S/4, S/4) logits and (N, 3) predicted IoU.
    """
    size = image.shape[-1]
    x, y = points.long().clamp(0, size - 1).T
    colour = image[:, y, x].T / 255
    middle = 4 * torch.arange(size // 4) + 2.0
    away = torch.hypot(middle[None, None, :] - points[:, 0, None, None], middle[None, :, None] - points[:, 1, None, None])
    ripple = 7 * torch.sin(middle[None, :] / (3 + 9 * colour[:, 1, None]))[:, None, :] * torch.cos(middle / 9)[:, None]
    radius = size * torch.tensor([0.05, 0.12, 0.3]) * (0.5 + colour)
    return radius[..., None, None] - away[:, None] + ripple[:, None], 0.4 + 0.6 * colour[:, [2, 0, 1]]


@dataclass
class Discs:
    """``discs`` as a segmenter."""

    input_size: int = 256
    mask_size: int = 64
    uses_low_patch: bool = False
    n_guesses: int = 3
    prompt_kinds: frozenset[str] = frozenset({"point"})

    def encode(self, pairs: PairImages) -> Tensor:
        return torch.from_numpy(pairs.high[0]).permute(2, 0, 1).float()

    def decode(self, embedding: Tensor, prompts: PromptBatch, *, margin=None, guesses: bool = False) -> MaskBatch:
        assert guesses
        low, iou = discs(torch.from_numpy(prompts.points[:, 0]), embedding)
        logits = F.interpolate(low, (self.input_size,) * 2, mode="bilinear", align_corners=False).flatten(0, 1)
        return MaskBatch(logits.numpy(), np.zeros((len(logits), 2), np.int64), iou.flatten().numpy())


class OfficialDiscs(nn.Module):
    """``discs`` behind the three modules of the official model: each hands on what the last one needs."""

    img_size = 256
    mask_in_chans = 16

    def forward(self, first: Any = None, **prompt: Any) -> Any:
        if "image_embeddings" in prompt:
            return discs(prompt["sparse_prompt_embeddings"][:, 0].float(), prompt["image_embeddings"][0])
        return (prompt["points"][0], None) if "points" in prompt else first

    def get_dense_pe(self) -> Tensor:
        return torch.zeros(1)


@pytest.fixture(scope="module")
def official_discs() -> OfficialSam:
    return OfficialSam(OfficialDiscs(), OfficialDiscs(), OfficialDiscs(), [0.0] * 3, [1.0] * 3)


def stained(seed: int, size: int = 256) -> np.ndarray:
    """Smooth colours, all of them of tissue."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.uniform((60, 20, 60), (240, 170, 240), (9, 9, 3)))
    image = F.interpolate(small.permute(2, 0, 1)[None], (size, size), mode="bicubic")[0].permute(1, 2, 0)
    return image.clamp(0, 245).byte().numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"box_nms_thresh": 0.3, "pred_iou_thresh": 0.8},
        {"stability_score_offset": 2.5, "stability_score_thresh": 0.85},
        {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
        {"min_mask_region_area": 40},
        {"crop_n_layers": 1, "crop_overlap_ratio": SQUARE},
        {"crop_n_layers": 2, "crop_overlap_ratio": SQUARE, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.5},
        {"crop_n_layers": 1, "crop_overlap_ratio": SQUARE, "min_mask_region_area": 90, "box_nms_thresh": 0.9},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_masks_of_the_same_scores(options: dict[str, Any], seed: int, official_discs: OfficialSam) -> None:
    loose = {"points_per_side": 12, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.9}
    theirs, ours = both(Discs(), official_discs, stained(seed), **loose | options)
    overlap, apart = likeness(theirs, ours)
    print(len(theirs), len(ours), overlap.min(), apart.max())
    assert len(ours) == len(theirs) > 15
    assert overlap.min() == 1
    assert apart.max() < 1e-6
