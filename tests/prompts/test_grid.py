from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsi_pipeline.models.roles import PairImages, Prompter
from wsi_pipeline.prompts.grid import PointGrid, has_stain
from wsi_pipeline.workflow import GridPrompts

TISSUE = (215, 150, 190)


def detect(image: np.ndarray, mpp: float, spacing: float):
    grid = PointGrid(GridPrompts(source="grid", spacing=f"{spacing} um"))
    return grid.detect(PairImages(image[None]), mpp=mpp)[0]


def patch(colour=TISSUE, side: int = 128) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (side, side, 3)).copy()


def test_it_is_a_prompter() -> None:
    assert isinstance(PointGrid(GridPrompts(source="grid")), Prompter)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 150), st.floats(0.2, 2), st.floats(1, 200))
def test_points_are_spacing_apart_and_centred(side: int, mpp: float, spacing: float) -> None:
    points = detect(patch(side=side), mpp, spacing).points
    x = np.unique(points[:, 0])
    assert len(points) == len(x) ** 2
    step = max(1.0, spacing / mpp)
    assert np.allclose(np.diff(x), step, atol=1e-3)
    assert x[0] == pytest.approx(side - x[-1], abs=1e-3)
    assert 0 < x[0] <= step


def test_boxes_are_unknown_and_scores_full() -> None:
    found = detect(patch(), 0.5, 16)
    assert found.boxes.shape == (16, 4)
    assert np.isnan(found.boxes).all()
    assert (found.scores == 1).all()


@pytest.mark.parametrize("glass", [(255, 255, 255), (243, 243, 245), (226, 225, 235), (230, 230, 230)])
def test_only_tissue_is_asked_about(glass) -> None:
    image = patch(glass)
    assert len(detect(image, 0.5, 8).points) == 0
    image[:, 64:] = TISSUE
    points = detect(image, 0.5, 8).points
    assert len(points) == 32
    assert (points[:, 0] > 64).all()


@pytest.mark.parametrize("colour", [(238, 222, 233), (150, 190, 220), (120, 80, 60), (60, 60, 60)])
def test_pale_blue_and_brown_tissue_is_asked_about(colour) -> None:
    assert len(detect(patch(colour), 0.5, 16).points) == 16


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_stain_is_judged_on_the_window_around_a_point(window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.where(rng.random((40, 50, 1)) < 0.02, np.array(TISSUE), 245).astype(np.uint8)
    x, y = np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5)
    answers = has_stain(image, np.stack([x.ravel(), y.ravel()], axis=1), window).reshape(40, 50)
    density = np.log10(246 / (image + 1.0))
    mean = ndimage.uniform_filter(density, (window, window, 0), mode="nearest")
    chroma, total = np.ptp(mean, axis=-1) - 0.022, mean.mean(axis=-1) - 0.1
    clear = np.maximum(np.abs(chroma), np.abs(total)) > 1e-4
    np.testing.assert_array_equal(answers[clear], ((chroma > 0) | (total > 0))[clear])
