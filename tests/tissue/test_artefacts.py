from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from wsi_pipeline.geometry import Region
from wsi_pipeline.tissue.detect import OUT_OF_FOCUS, PEN, find_tissue
from wsi_pipeline.workflow import TissueSettings

STAINED = (190, 110, 165)
GREEN, BLUE, RED, BLACK = (20, 120, 60), (40, 70, 180), (215, 25, 45), (25, 25, 28)
SETTINGS = TissueSettings()


def stroke(canvas, colour, y: int = 425) -> Region:
    """A horizontal line of 240 µm width on glass; returns its middle."""
    canvas.image[y - 15 : y + 15, 100:500] = colour
    return Region(125, y - 10, 350, 20)


@pytest.mark.parametrize("ink", [GREEN, BLUE, RED, BLACK])
def test_ink_on_glass_is_pen_and_no_tissue(canvas, ink) -> None:
    canvas.disc(300, 200, 125, STAINED, texture=10)
    line = stroke(canvas, ink)
    found = find_tissue(canvas.slide(), SETTINGS)
    pen = found.artefacts[PEN]
    assert found.share_of(line) == 0
    assert pen.sum() * found.grid.mpp**2 == pytest.approx(240 * 3200, rel=0.4)
    assert found.share_of(Region(225, 125, 150, 150)) == 1


def test_green_ink_across_tissue_is_cut_out_of_it(canvas) -> None:
    canvas.disc(300, 250, 175, STAINED, texture=10)
    line = stroke(canvas, GREEN, y=250)
    found = find_tissue(canvas.slide(), SETTINGS)
    assert found.share_of(line) == 0
    assert found.share_of(Region(250, 300, 100, 50)) == 1


def test_pen_stays_when_artefacts_are_not_wanted(canvas) -> None:
    canvas.disc(300, 200, 125, STAINED)
    line = stroke(canvas, GREEN)
    found = find_tissue(canvas.slide(), TissueSettings(artefacts=False))
    assert found.share_of(line) == 1
    assert not found.artefacts


@pytest.mark.parametrize(
    "colour",
    [
        (90, 50, 130),  # dense haematoxylin
        (110, 150, 200),  # blue counterstain
        (215, 60, 110),  # eosin
        (190, 50, 60),  # blood
        (80, 50, 35),  # DAB
        (45, 30, 25),  # dense DAB or melanin
    ],
)
def test_a_stain_is_no_ink(canvas, colour) -> None:
    canvas.disc(300, 250, 175, (215, 160, 195), texture=8)
    canvas.disc(300, 250, 75, colour, texture=8)
    found = find_tissue(canvas.slide(), SETTINGS)
    assert PEN not in found.artefacts
    assert found.share_of(Region(250, 200, 100, 100)) == 1


def test_slide_with_blue_stain_keeps_its_densest_blue(canvas) -> None:
    canvas.disc(150, 250, 125, (150, 190, 220), texture=8)
    canvas.disc(425, 250, 75, (60, 100, 190), texture=8)
    assert PEN not in find_tissue(canvas.slide(), SETTINGS).artefacts


def test_red_ink_inside_tissue_is_taken_for_blood(canvas) -> None:
    canvas.disc(300, 250, 200, STAINED, texture=8)
    canvas.disc(300, 250, 50, RED)
    assert PEN not in find_tissue(canvas.slide(), SETTINGS).artefacts


@pytest.fixture
def fine(glass):
    """Finely textured tissue of 2.4 x 2 mm at 2 µm per px."""
    canvas = glass.of_glass(1000, 1200)
    canvas.mpp = 2.0
    coarse = ndimage.gaussian_filter(np.random.default_rng(5).normal(0, 1, (1000, 1200)), 3)
    canvas.paint(np.ones((1000, 1200), bool), STAINED, texture=14)
    canvas.image = np.clip(canvas.image + (12 * coarse / coarse.std())[..., None], 0, 255).astype(np.uint8)
    return canvas


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)).astype(np.uint8)


def test_blurred_part_is_out_of_focus(fine) -> None:
    fine.image[:, :512] = blurred(fine.image, 2.5)[:, :512]
    found = find_tissue(fine.slide(), SETTINGS)
    assert found.share_of(Region(0, 0, 400, 1000)) < 0.1
    assert found.share_of(Region(640, 0, 560, 1000)) > 0.98
    assert found.artefacts[OUT_OF_FOCUS].any()
    assert "out of focus" in found.warnings[0]


def test_sharp_slide_is_nowhere_out_of_focus(fine) -> None:
    assert OUT_OF_FOCUS not in find_tissue(fine.slide(), SETTINGS).artefacts


def test_slide_that_is_soft_all_over_is_left_whole(fine) -> None:
    fine.image = blurred(fine.image, 2.5)
    found = find_tissue(fine.slide(), SETTINGS)
    assert not found.artefacts
    assert found.tissue.all()


def test_flat_tissue_is_not_taken_for_blurred(fine) -> None:
    fine.image[:, :512] = (225, 175, 210)
    assert OUT_OF_FOCUS not in find_tissue(fine.slide(), SETTINGS).artefacts
