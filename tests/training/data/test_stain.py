"""Other stains and scanners: colours change, glass does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.training.data.scanner import Scan, ScanRange, draw_scan, scanned
from wsi_pipeline.training.data.stain import StainRange, draw_stain, restained

PINK, PURPLE = (228, 150, 190), (98, 66, 138)


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((4, 4, 3), colour, np.uint8)


@given(st.integers(0, 2**32))
def test_white_stays_white(seed: int) -> None:
    change = draw_stain(StainRange(amount=1.0, colour=0.3), np.random.default_rng(seed))
    assert (restained(flat((255, 255, 255)), change) == 255).all()


@given(st.integers(0, 2**32))
def test_tissue_keeps_a_colour_of_tissue(seed: int) -> None:
    change = draw_stain(StainRange(), np.random.default_rng(seed))
    pink, purple = (restained(flat(colour), change)[0, 0].astype(int) for colour in (PINK, PURPLE))
    assert purple.sum() < pink.sum() - 100
    assert pink[1] == pink.min()
    assert np.abs(pink - PINK).max() < 60


def test_no_range_is_no_change() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    change = draw_stain(StainRange(amount=0, colour=0), np.random.default_rng(1))
    np.testing.assert_allclose(restained(image, change).astype(int), image, atol=1)


def test_more_dye_is_darker() -> None:
    assert restained(flat(PINK), np.eye(3) * 1.3).sum() < flat(PINK).sum()


def test_no_faults_leave_the_image_alone() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert scanned(image, draw_scan(ScanRange(), random), 1.0, random) is image


@pytest.mark.parametrize("scan", [Scan(2.0, 0.0, None), Scan(0.0, 8.0, None), Scan(0.0, 0.0, 30)])
def test_faults_change_detail_and_keep_the_colour(scan: Scan) -> None:
    random = np.random.default_rng(0)
    image = np.clip(random.normal(150, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
    result = scanned(image, scan, 1.0, random)
    assert result.dtype == np.uint8
    assert (result != image).any()
    assert abs(result.mean() - image.mean()) < 2


def test_a_coarser_patch_is_blurred_less() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    fine, coarse = (scanned(image, Scan(1.5, 0.0, None), step, random).std() for step in (1.0, 2.0))
    assert fine < coarse < image.std()
