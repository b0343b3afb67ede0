from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from wsi_pipeline.geometry import Affine2D, PixelGrid, Region
from wsi_pipeline.tissue import detect
from wsi_pipeline.tissue.detect import find_tissue, overview_grid
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.workflow import TissueSettings

STAINED = (190, 110, 165)
PALE = (238, 222, 233)
FAINT_BLUE = (205, 214, 226)
SETTINGS = TissueSettings()


def agreement(found: TissueMask, truth: np.ndarray) -> float:
    """IoU of the found tissue with a mask of the canvas, which has the overview's resolution."""
    return float((truth & found.tissue).sum() / (truth | found.tissue).sum())


@pytest.mark.parametrize("colour", [STAINED, PALE, FAINT_BLUE, (120, 80, 60)])
def test_tissue_of_any_stain_is_found(canvas, colour) -> None:
    truth = canvas.disc(250, 200, 125, colour)
    assert agreement(find_tissue(canvas.slide(), SETTINGS), truth) > 0.95


def test_pale_tissue_beside_dark_tissue_is_found(canvas) -> None:
    truth = canvas.disc(150, 200, 100, (90, 40, 110)) | canvas.disc(425, 250, 110, PALE)
    assert agreement(find_tissue(canvas.slide(), SETTINGS), truth) > 0.95


def test_empty_slide_has_no_tissue_and_says_so(canvas) -> None:
    found = find_tissue(canvas.slide(), SETTINGS)
    assert found.is_empty
    assert found.warnings == ("no tissue found",)


def test_uneven_glass_is_not_tissue(canvas) -> None:
    shade = np.linspace(0.93, 1.0, canvas.image.shape[1])[None, :, None]
    canvas.image = (canvas.image * shade).astype(np.uint8)
    assert find_tissue(canvas.slide(), SETTINGS).is_empty


def test_all_white_slide_has_no_tissue(slide_of) -> None:
    assert find_tissue(slide_of(np.full((400, 500, 3), 255, np.uint8), 4.0), SETTINGS).is_empty


@pytest.mark.parametrize("colour", [STAINED, (225, 205, 220)])
def test_slide_that_is_all_tissue_is_not_split(canvas, colour) -> None:
    canvas.paint(np.ones(canvas.image.shape[:2], bool), colour, texture=6)
    assert find_tissue(canvas.slide(), SETTINGS).tissue.mean() > 0.99


def test_black_border_is_not_tissue(canvas) -> None:
    truth = canvas.disc(300, 250, 125, STAINED)
    canvas.image[:, :30] = 8
    canvas.image[-20:] = 12
    found = find_tissue(canvas.slide(), SETTINGS)
    assert agreement(found, truth) > 0.95
    assert not found.artefacts


def test_coloured_edge_of_the_glass_is_not_tissue(canvas) -> None:
    truth = canvas.disc(300, 250, 125, STAINED)
    canvas.image[:, -10:] = (170, 215, 200)
    assert agreement(find_tissue(canvas.slide(), SETTINGS), truth) > 0.95


def test_grey_dust_and_shadow_are_not_tissue(canvas) -> None:
    truth = canvas.disc(300, 250, 125, STAINED)
    canvas.disc(75, 75, 30, (150, 150, 150))
    canvas.disc(525, 75, 40, (222, 222, 222))
    assert agreement(find_tissue(canvas.slide(), SETTINGS), truth) > 0.95


def test_greyscale_slide_still_has_tissue(canvas) -> None:
    canvas.image = np.repeat(canvas.image[..., :1], 3, axis=-1)
    truth = canvas.disc(300, 250, 125, (140, 140, 140))
    assert agreement(find_tissue(canvas.slide(), SETTINGS), truth) > 0.95


def test_small_pieces_and_holes_go_by_their_area(canvas) -> None:
    canvas.disc(300, 250, 150, STAINED)
    for x, radius in ((225, 10), (375, 30)):  # 20 100 and 181 000 µm²
        canvas.disc(x, 250, radius, (243, 242, 244))
    canvas.disc(50, 50, 7, STAINED)  # 11 300 µm²
    canvas.disc(550, 50, 12, STAINED)  # 31 400 µm²
    found = find_tissue(canvas.slide(), SETTINGS)
    assert ndimage.label(found.tissue)[1] == 2
    assert found.share_of(Region(220, 245, 8, 8)) == 1
    assert found.share_of(Region(370, 245, 10, 10)) == 0


def test_gaps_are_closed_up_to_the_given_width(canvas) -> None:
    canvas.image[150:350, 150:450] = STAINED
    canvas.image[150:350, 250:252] = 243  # 16 µm
    canvas.image[150:350, 350:358] = 243  # 64 µm
    found = find_tissue(canvas.slide(), TissueSettings(max_hole=0))
    assert ndimage.label(found.tissue)[1] == 2


def test_method_none_is_the_whole_of_the_bounds(slide_of) -> None:
    slide = slide_of(np.full((400, 500, 3), 255, np.uint8), 4.0, bounds=Region(100, 50, 300, 200))
    found = find_tissue(slide, TissueSettings(method="none"))
    assert found.tissue.all()
    assert found.share_of(Region(100, 50, 300, 200)) == 1
    assert found.share_of(Region(0, 0, 100, 400)) == 0


def test_only_the_bounds_are_looked_at(canvas) -> None:
    canvas.disc(100, 100, 75, STAINED)
    truth = canvas.disc(400, 250, 100, STAINED)
    found = find_tissue(canvas.slide(bounds=Region(250, 100, 320, 320)), SETTINGS)
    assert found.grid.to_level0.tx == 250
    assert found.share_of(Region(300, 150, 200, 200)) == pytest.approx(truth[150:350, 300:500].mean(), abs=0.02)


def test_overview_of_a_giant_slide_stays_small(slide_of) -> None:
    info = slide_of(np.zeros((1, 1, 3), np.uint8), 0.25, bounds=Region(0, 0, 4_000_000, 2_000_000)).info
    grid = overview_grid(info, 8.0)
    assert 0.98 * detect.MAX_OVERVIEW < grid.width * grid.height < 1.01 * detect.MAX_OVERVIEW
    assert grid.region.width == pytest.approx(4_000_000, rel=1e-4)


def test_overview_is_never_finer_than_the_slide(slide_of) -> None:
    info = slide_of(np.zeros((100, 200, 3), np.uint8), 20.0).info
    assert overview_grid(info, 8.0) == PixelGrid(200, 100, Affine2D(), 20.0)


def test_slide_of_one_pixel_has_no_tissue(slide_of) -> None:
    assert find_tissue(slide_of(np.full((1, 1, 3), 240, np.uint8), 0.5), SETTINGS).is_empty


def test_strips_do_not_change_the_overview(canvas, monkeypatch) -> None:
    canvas.disc(250, 200, 125, STAINED, texture=20)
    slide = canvas.slide()
    grid = overview_grid(slide.info, 8.0)
    whole = detect.read_overview(slide, grid)
    monkeypatch.setattr(detect, "_STRIP", 7 * grid.width)
    assert np.array_equal(detect.read_overview(slide, grid), whole)
