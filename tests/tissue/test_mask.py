from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D, PixelGrid, Region
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.tissue.mask import TissueMask


def mask_of(tissue: np.ndarray, scale: float = 1.0, x: float = 0.0, y: float = 0.0) -> TissueMask:
    height, width = tissue.shape
    return TissueMask(PixelGrid(width, height, Affine2D(scale, scale, x, y), scale), tissue.astype(bool))


def brute_force_share(mask: TissueMask, region: Region) -> float:
    """Sum over mask pixels of the area they share with the region."""
    covered = 0.0
    for row, col in np.argwhere(mask.tissue):
        meeting = mask.grid.to_level0.shifted(col, row).region(1, 1).intersection(region)
        covered += meeting.width * meeting.height
    return covered / (region.width * region.height)


@st.composite
def masks(draw: st.DrawFn) -> TissueMask:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    scale = draw(st.floats(0.5, 20))
    return mask_of(np.reshape(bits, (height, width)), scale, draw(st.floats(-50, 50)), draw(st.floats(-50, 50)))


@settings(max_examples=80, deadline=None)
@given(masks(), st.floats(-80, 80), st.floats(-80, 80), st.floats(0.5, 200), st.floats(0.5, 200))
def test_share_is_the_exact_area(mask: TissueMask, x: float, y: float, width: float, height: float) -> None:
    region = Region(x, y, width, height)
    assert mask.share_of(region) == pytest.approx(brute_force_share(mask, region), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.data())
def test_keep_tiles_agrees_with_the_share_of_each_tile(
    mask: TissueMask, width: int, height: int, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size // 2))
    least = data.draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    grid = PixelGrid(width, height, Affine2D(1.7, 1.7, -20, 3), 1.7)
    keep = mask.keep_tiles(grid, size, overlap, least)
    assert keep.shape == TilePlan.shape(grid, size, overlap)
    plan = TilePlan(grid, size, overlap, np.ones_like(keep), block=4)
    for tile in plan.tiles():
        whole = grid.to_level0.shifted(tile.x, tile.y).region(size, size)
        share = brute_force_share(mask, whole.intersection(grid.region))
        if min(abs(share - least), share) > 1e-5:
            assert keep[tile.row, tile.col] == (share > least)


def test_share_of_a_region_outside_is_zero() -> None:
    assert mask_of(np.ones((5, 5))).share_of(Region(100, 100, 10, 10)) == 0


def test_share_of_a_region_without_area_is_zero() -> None:
    assert mask_of(np.ones((5, 5))).share_of(Region(1, 1, 0, 3)) == 0


def test_slide_smaller_than_a_tile_keeps_its_tile() -> None:
    mask = mask_of(np.ones((10, 10)))
    assert mask.keep_tiles(mask.grid, 256, 32, 0.5).tolist() == [[True]]


def test_no_tile_is_kept_without_tissue() -> None:
    mask = mask_of(np.zeros((100, 100)))
    assert not mask.keep_tiles(mask.grid, 16, 4, 0.0).any()
    assert mask.is_empty


def test_area_is_in_square_microns() -> None:
    assert mask_of(np.ones((3, 4)), scale=2.0).area_um2 == 48
