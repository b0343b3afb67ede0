"""Regions are pooled as a loop over their px would do it, in one go."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.models.regions import among_used, box_rows, chunks, in_low_patch, mask_px, pool_boxes, pool_masks
from wsi_pipeline.models.roles import Regions


def drawn(count: int, size: int, images: int, seed: int) -> Regions:
    """Random masks in random boxes; none is empty."""
    random = np.random.default_rng(seed)
    start = random.integers(0, size - 1, (count, 2))
    stop = random.integers(start + 1, size + 1)
    masks = [random.random((y1 - y0, x1 - x0)) < 0.5 for (x0, y0), (x1, y1) in zip(start, stop, strict=True)]
    for mask in masks:
        mask[0, 0] = True
    return Regions(random.integers(0, images, count), np.column_stack([start, stop]), masks)


@given(st.integers(0, 2**32), st.sampled_from([(32, 8), (32, 32), (28, 8)]))
def test_means_under_masks_are_those_of_a_loop(seed: int, sides: tuple[int, int]) -> None:
    size, side = sides
    regions = drawn(5, size, 3, seed)
    maps = torch.from_numpy(np.random.default_rng(seed).random((3, 4, side, side), np.float32))
    got = pool_masks(maps, regions, size=size)
    for row, (image, (x0, y0, *_), mask) in enumerate(
        zip(regions.image_index, regions.boxes, regions.masks, strict=True)
    ):
        y, x = np.nonzero(mask)
        cells = maps[image][:, (y + y0) * side // size, (x + x0) * side // size]
        torch.testing.assert_close(got[row], cells.mean(dim=1))


def test_an_empty_mask_gives_zeros() -> None:
    regions = Regions(np.zeros(2, np.int64), np.array([[0, 0, 4, 4], [4, 4, 8, 8]]), [np.zeros((4, 4), bool)] * 2)
    assert not pool_masks(torch.ones(1, 3, 8, 8), regions, size=8).any()


def test_no_regions_are_no_rows() -> None:
    none = Regions(np.zeros(0, np.int64), np.zeros((0, 4), np.int64), [])
    assert pool_masks(torch.ones(1, 3, 8, 8), none, size=8).shape == (0, 3)
    assert pool_boxes(torch.ones(1, 3, 8, 8), box_rows(none.image_index, none.boxes), size=8, grid=2).shape == (
        0,
        3,
        2,
        2,
    )


def test_px_of_masks_lie_in_the_frame_of_their_boxes() -> None:
    mask = np.array([[False, True], [True, False]])
    rows, x, y = mask_px([~mask[:1], mask], np.array([[5, 1, 7, 2], [2, 3, 4, 5]]))
    np.testing.assert_array_equal(np.column_stack([rows, x, y]), [[0, 5, 1], [1, 3, 3], [1, 2, 4]])


def test_a_box_shows_the_places_it_covers() -> None:
    ramp = (torch.arange(16.0) + 0.5).expand(1, 1, 16, 16)
    rows = box_rows(np.zeros(1), np.array([[16, 8, 48, 24]]))
    got = pool_boxes(ramp, rows, size=64, grid=4)
    # 32 px are 8 cells from cell 4 on
    torch.testing.assert_close(got[0, 0, 0], torch.tensor([5.0, 7, 9, 11]))


def test_a_box_lies_in_the_middle_of_the_low_patch() -> None:
    rows = box_rows(np.array([1]), np.array([[0, 0, 256, 128]]))
    torch.testing.assert_close(in_low_patch(rows, 256, 2.0), torch.tensor([[1.0, 64, 64, 192, 128]]))
    torch.testing.assert_close(in_low_patch(rows, 256, 4.0), torch.tensor([[1.0, 96, 96, 160, 128]]))


def test_parts_are_the_whole_in_order() -> None:
    regions = drawn(7, 16, 2, 0)
    parts = list(chunks(regions, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([part.boxes for part in parts]), regions.boxes)
    assert [id(mask) for part in parts for mask in part.masks] == [id(mask) for mask in regions.masks]


def test_images_without_regions_are_left_out() -> None:
    regions = Regions(np.array([4, 1, 4]), np.zeros((3, 4), np.int64), [])
    used, again = among_used(regions)
    np.testing.assert_array_equal(used, [1, 4])
    np.testing.assert_array_equal(used[again.image_index], regions.image_index)
