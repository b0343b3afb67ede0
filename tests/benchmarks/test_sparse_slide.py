"""The giant slide of ``benchmarks/memory.py`` is one that any reader opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from wsi_pipeline.geometry import Region
from wsi_pipeline.slides.slide import open_slide

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return pytest.importorskip("sparse_slide")


def test_a_million_nuclei_take_a_megabyte(sparse: Any, tmp_path: Path) -> None:
    recipe = sparse.SparseSlide.holding(1_000_000, side=100_000, capacity=1_000_000, phase=20)
    recipe.write(tmp_path / "giant.tif")
    assert recipe.objects >= 1_000_000
    assert (tmp_path / "giant.tif").stat().st_size < 2e6
    with open_slide(tmp_path / "giant.tif") as slide:
        assert (slide.info.width, slide.info.height) == (100_000, 100_000)
        assert slide.info.resolution.x == pytest.approx(0.5)
        corner = 2 * sparse.CELL
        tile = slide.read(Region(corner, corner, sparse.TILE, sparse.TILE), 0.5).image
        assert (slide.read(Region(0, 0, 300, 300), 0.5).image == 255).all()
    # nuclei cut by the tile's border go on at the other side
    nuclei = ndimage.label(np.tile(tile[..., 1] < 150, (3, 3)))[0]
    middle = ndimage.center_of_mass(nuclei > 0, nuclei, range(1, nuclei.max() + 1))
    inside = sum(sparse.TILE <= y < 2 * sparse.TILE and sparse.TILE <= x < 2 * sparse.TILE for y, x in middle)
    assert inside == recipe.per_tile


def test_openslide_shows_the_same(sparse: Any, tmp_path: Path) -> None:
    openslide = pytest.importorskip("openslide")
    sparse.SparseSlide(10_000, 1, 20, 7).write(tmp_path / "small.tif")
    with open_slide(tmp_path / "small.tif") as ours, openslide.OpenSlide(tmp_path / "small.tif") as theirs:
        assert theirs.level_dimensions == ours.info.level_sizes
        for level, scale in enumerate(sparse.SHRINKS):
            pixels = np.asarray(theirs.read_region((960, 960), level, (200, 200)))[..., :3]
            region = Region(960, 960, 200 * scale, 200 * scale)
            np.testing.assert_array_equal(pixels, ours.read(region, 0.5 * scale).image)
