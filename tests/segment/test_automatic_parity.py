"""Automatic masks are those of ``segment_anything.SamAutomaticMaskGenerator``, asked with the same model."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam as OfficialSam
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes, remove_small_regions
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_pipeline.models.layers import EncoderOutput
from wsi_pipeline.models.precision import reference_pair
from wsi_pipeline.models.roles import MaskBatch, PairImages, PromptBatch
from wsi_pipeline.models.sam import SamSegmenter, build_sam
from wsi_pipeline.prompts.grid import grid_points
from wsi_pipeline.segment.automatic import MaskFinder
from wsi_pipeline.segment.candidates import Candidate
from wsi_pipeline.segment.components import tight_boxes
from wsi_pipeline.segment.crops import Crop, lay_out
from wsi_pipeline.segment.small_regions import without_small_regions
from wsi_pipeline.segment.tile_extent import TileExtent
from wsi_pipeline.workflow import GridPrompts

ROOT = Path(__file__).parents[2]
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
    return generator.generate(image), finder.find(PairImages(image[None]), TileExtent.whole(size, MPP), read)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The benchmark, which has an official model of our weights, and compares masks."""
    spec = importlib.util.spec_from_file_location("automatic", ROOT / "benchmarks" / "automatic.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["automatic"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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
    away = torch.hypot(
        middle[None, None, :] - points[:, 0, None, None], middle[None, :, None] - points[:, 1, None, None]
    )
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


CASES = [
    {},
    {"box_nms_thresh": 0.5, "pred_iou_thresh": 0.8},
    {"stability_score_offset": 2.5, "stability_score_thresh": 0.85},
    {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    {"min_mask_region_area": 40},
    {"points_per_side": 8, "crop_n_layers": 1, "crop_overlap_ratio": SQUARE},
    {"crop_n_layers": 2, "crop_overlap_ratio": SQUARE, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.5},
    {"points_per_side": 8, "crop_n_layers": 1, "crop_overlap_ratio": SQUARE, "min_mask_region_area": 90},
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_same_masks_of_the_same_scores(number: int, official_discs: OfficialSam, bench) -> None:
    loose = {"points_per_side": 12, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.9}
    theirs, ours = both(Discs(), official_discs, stained(number), **loose | CASES[number])
    overlap, apart = bench.likeness(theirs, ours)
    assert len(ours) == len(theirs) > 8
    assert overlap.min() == 1
    assert apart.max() < 1e-6


def test_crops_whose_sides_differ_by_a_px_give_nearly_the_same(official_discs: OfficialSam, bench) -> None:
    """The official generator stretches a crop of 171 x 172 px to 255 x 256; ours is read at one scale."""
    options = {"points_per_side": 12, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.9, "crop_n_layers": 1}
    theirs, ours = both(Discs(), official_discs, stained(2), **options)
    overlap, _ = bench.likeness(theirs, ours)
    assert len(ours) == pytest.approx(len(theirs), rel=0.02)
    assert np.mean(overlap >= 0.95) >= 0.97


# --- SAM's decoder --------------------------------------------------------------------------------------------------

LOOSE = {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.1}
"""Random weights give masks of little certainty."""

THRESHOLDS = np.array([23.4, 27.7, 2.9])
"""Logits that about a tenth of all px lie above, for each guess."""


class PatchColours(nn.Module):
    """A cheap image encoder: each cell's embedding is a random map of its mean colour."""

    img_size = 1024

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(256, 3, 1, 1, generator=random))
        self.bias = nn.Parameter(torch.randn(256, generator=random))

    def forward(self, pixels: Tensor) -> Tensor:
        return F.conv2d(F.avg_pool2d(pixels, 16), self.weight, self.bias)


class OurPatchColours(PatchColours):
    def forward(self, pixels: Tensor) -> EncoderOutput:
        embedding = super().forward(pixels)
        return EncoderOutput(embedding, embedding)


@pytest.fixture(scope="module")
def sams(bench: ModuleType) -> tuple[SamSegmenter, OfficialSam]:
    """Ours and the official one, of the same weights."""
    ours = bench.made_from_names().fill_(build_sam("vit_t"))
    ours.image_encoder = OurPatchColours()
    bench.set_thresholds(bench.point_minded(ours), THRESHOLDS)
    return SamSegmenter(ours), bench.official_sam(ours, PatchColours())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"points_per_side": 6, "box_nms_thresh": 0.95}, 20),
        ({"points_per_side": 4, "crop_n_layers": 1, "crop_overlap_ratio": SQUARE}, 10),
    ],
)
def test_sam_gives_the_same_masks(options, least, sams: tuple[SamSegmenter, OfficialSam], bench) -> None:
    theirs, ours = both(*sams, reference_pair(1024)[0].high[0], **LOOSE | options)
    overlap, apart = bench.likeness(theirs, ours)
    assert len(ours) == len(theirs) >= least
    assert np.mean(overlap >= 0.99) >= 0.99
    assert apart[:, 0].max() < 1e-5
    assert apart[:, 1].max() < 1e-3  # rounding moves a px or two across a threshold


@pytest.mark.slow
def test_sam_gives_nearly_the_same_masks_on_crops_whose_sides_differ_by_a_px(sams, bench) -> None:
    options = LOOSE | {"points_per_side": 4, "crop_n_layers": 1}
    theirs, ours = both(*sams, reference_pair(1024)[0].high[0], **options)
    overlap, _ = bench.likeness(theirs, ours)
    assert abs(len(ours) - len(theirs)) <= 1
    assert np.mean(overlap >= 0.9) >= 0.95


# --- geometry -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 4), st.floats(0, 0.99))
def test_crops_lie_where_the_official_ones_lie(width: int, height: int, layers: int, overlap: float) -> None:
    boxes, numbers = generate_crop_boxes((height, width), layers, overlap)
    crops = lay_out(width, height, layers, overlap)
    assert [[crop.x0, crop.y0, crop.x1, crop.y1] for crop in crops] == boxes
    assert [crop.layer for crop in crops] == numbers


@given(st.integers(1, 70), st.integers(0, 3), st.integers(1, 4), st.integers(64, 1024))
def test_points_lie_where_the_official_ones_lie(side: int, layers: int, thinner: int, size: int) -> None:
    assume(side >= thinner**layers)  # the official generator needs a point per side
    asked = GridPrompts(source="grid", points_per_side=side, crop_n_points_downscale_factor=thinner)
    for layer, wanted in enumerate(build_all_layer_point_grids(side, layers, thinner)):
        points, spacing = grid_points(asked, (size, size), MPP, layer=layer)
        np.testing.assert_allclose(points, wanted * size, atol=1e-9)
        assert spacing * round(len(points) ** 0.5) == pytest.approx(size)


@settings(max_examples=300)
@given(arrays(bool, (9, 11)), st.integers(1, 3), st.integers(0, 40))
def test_small_regions_are_the_official_ones(blocks: np.ndarray, scale: int, area: int) -> None:
    mask = np.kron(blocks, np.ones((scale, scale), bool))
    assume(mask.any())
    filled, had_holes = remove_small_regions(mask, area, "holes")
    wanted, had_parts = remove_small_regions(filled, area, "islands")
    box = tight_boxes(mask[None])[0]
    x0, y0, x1, y1 = box
    around = np.ones(mask.shape, bool)
    around[y0:y1, x0:x1] = False
    assume(not (filled & around).any())  # ours never fills what lies beside a mask
    parts, count = ndimage.label(filled, np.ones((3, 3)))
    sizes = np.sort(np.bincount(parts.ravel(), minlength=count + 1)[1:])
    # where only the largest of small parts stays, which of two equally large ones it is means nothing
    assume(sizes[-1] >= area or count < 2 or sizes[-1] > sizes[-2])
    logits = np.where(mask, 3, -3).astype(np.int8)
    given_one = Candidate(0, box, mask[y0:y1, x0:x1], logits, (0, 0), 0.9, 0.9)
    height, width = mask.shape
    tidy, changed = without_small_regions(given_one, area, np.array([0, 0, width, height]))
    assert changed == (had_holes or had_parts)
    left, top, right, bottom = tidy.box
    got = np.zeros_like(mask)
    got[top:bottom, left:right] = tidy.mask
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(tidy.logits > 0, wanted)
    assert tidy.box.tolist() == tight_boxes(wanted[None])[0].tolist()
