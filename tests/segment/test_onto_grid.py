from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.segment import onto_grid
from wsi_pipeline.segment.onto_grid import logits_onto_grid, outline_onto_grid

GRID = PixelGrid(90, 70, Affine2D(2.0, 2.0, 10.0, 20.0), 0.5)


def unpacked(packed, grid: PixelGrid = GRID) -> np.ndarray:
    canvas = np.zeros((grid.height, grid.width), bool)
    if packed is not None:
        (x0, y0, x1, y1), bits = packed
        mask = np.unpackbits(bits, count=(y1 - y0) * (x1 - x0)).reshape(y1 - y0, x1 - x0).astype(bool)
        assert mask.any(axis=0)[[0, -1]].all()
        assert mask.any(axis=1)[[0, -1]].all()
        canvas[y0:y1, x0:x1] = mask
    return canvas


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(-20, 90), st.integers(-20, 70))
def test_logits_of_the_grids_resolution_are_taken_as_they_are(seed: int, x: int, y: int) -> None:
    own = np.random.default_rng(seed).normal(size=(19, 23)).astype(np.float32)
    expected = np.zeros((170, 190), bool)
    expected[y + 50 : y + 69, x + 50 : x + 73] = own > 0
    packed = logits_onto_grid(own, Affine2D(tx=x, ty=y), GRID)
    np.testing.assert_array_equal(unpacked(packed), expected[50:120, 50:140])


@pytest.mark.parametrize("step", [-3, -2, -1, 1, 2, 3])
@pytest.mark.parametrize("corner", [(0, 0), (7, 11), (-5, -3)])
def test_a_straight_edge_stays_where_it_is_at_every_resolution(step: int, corner: tuple[int, int]) -> None:
    scale = 2.0**step
    to_grid = Affine2D(scale, scale, *corner)
    columns = round(64 / scale)
    # logits that fall from left to right and cross 0 at column 29 of the grid; the same from top to bottom
    for axis, offset in enumerate(corner):
        own = np.tile(29 - offset - scale * (np.arange(columns) + 0.5), (columns, 1)).astype(np.float32)
        expected = np.zeros((70, 90), bool)
        end = [min(corner[0] + 64, 90), min(corner[1] + 64, 70)]
        end[axis] = 29
        expected[max(corner[1], 0) : end[1], max(corner[0], 0) : end[0]] = True
        packed = logits_onto_grid(own if axis == 0 else own.T, to_grid, GRID)
        np.testing.assert_array_equal(unpacked(packed), expected)


@pytest.mark.parametrize("step", [-2, 0, 1, 2])
def test_strips_make_the_same_mask_as_one_piece(step: int, monkeypatch) -> None:
    scale = 2.0**step
    y, x = np.mgrid[: round(60 / scale), : round(60 / scale)] * scale
    own = (20 - np.hypot(x - 31, y - 28) + 3 * np.sin(x / 3)).astype(np.float32)
    to_grid = Affine2D(scale, scale, 5, 4)
    whole = logits_onto_grid(own, to_grid, GRID)
    monkeypatch.setattr(onto_grid, "STRIP_PX", 1)
    strips = logits_onto_grid(own, to_grid, GRID)
    assert whole is not None
    assert strips is not None
    assert whole[0] == strips[0]
    np.testing.assert_array_equal(whole[1], strips[1])


def test_a_large_result_never_holds_more_than_a_strip(monkeypatch) -> None:
    import tracemalloc

    monkeypatch.setattr(onto_grid, "STRIP_PX", 2**16)
    grid = PixelGrid(8192, 8192, Affine2D(), 0.5)
    own = np.full((128, 128), 3, np.float32)
    own[[0, -1]] = own[:, [0, -1]] = -3
    tracemalloc.start()
    packed = logits_onto_grid(own, Affine2D(64, 64), grid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert packed is not None
    assert packed[0] == (64, 64, 8128, 8128)
    assert peak < 3 * len(packed[1]) < 8192 * 8192


def test_what_lies_outside_the_grid_leaves_nothing() -> None:
    own = np.full((8, 8), 5, np.float32)
    assert logits_onto_grid(own, Affine2D(tx=200, ty=5), GRID) is None
    assert logits_onto_grid(-own, Affine2D(tx=20, ty=5), GRID) is None
    assert outline_onto_grid(shapely.box(-500, 0, -400, 30), GRID) is None


def test_an_outline_is_the_pixels_whose_centres_it_holds(monkeypatch) -> None:
    outline = shapely.Point(100, 90).buffer(33).difference(shapely.Point(95, 88).buffer(9))
    expected = rasterise(outline, GRID.to_level0.inverse(), 90, 70)
    np.testing.assert_array_equal(unpacked(outline_onto_grid(outline, GRID)), expected)
    monkeypatch.setattr(onto_grid, "STRIP_PX", 1)
    np.testing.assert_array_equal(unpacked(outline_onto_grid(outline, GRID)), expected)


def test_an_outline_smaller_than_a_pixel_is_that_pixel() -> None:
    packed = outline_onto_grid(shapely.box(30.1, 40.1, 30.4, 40.3), GRID)
    assert packed is not None
    assert packed[0] == (10, 10, 11, 11)
