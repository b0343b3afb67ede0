from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.models.roles import PairImages, Prompter
from wsi_pipeline.prompts.grid import PointGrid
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
