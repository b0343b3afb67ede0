"""Out-of-focus tissue, measured where focus can be seen: at about 2 µm per px, in blocks, on tissue only.

An unsharp image has lost its finest detail but kept the coarser one, whatever the tissue. So the measure is the
energy of the finest band over that of the next one (a ratio of two difference-of-Gaussian bands, close kin of
the Laplacian energy of Nayar & Nakagawa 1994), which does not depend on how strongly the tissue is stained. It
counts only relative to the slide's own sharp tissue: a scanner's softness is not an artefact, and a slide that
is unsharp all over is left whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from wsi_pipeline.geometry import PixelGrid
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.tissue.morphology import without_small_pieces

if TYPE_CHECKING:
    from wsi_pipeline.slides.slide import Slide


@dataclass(frozen=True, slots=True)
class FocusParameters:
    """Lengths in µm.

    Attributes:
        mpp: resolution the focus is measured at; a slide coarser than twice that is not judged.
        cell: side of the square one value is measured on.
        block: cells along the side of what is read at once.
        tissue: least share of tissue in a cell.
        contrast: least standard deviation, grey levels, of the coarser band: flat tissue is not judged.
        relative: a cell is unsharp below this share of the slide's upper quartile.
        absolute: and below this ratio of the two bands.
        cells: fewer unsharp cells in one piece are chance.
        judged: fewer judged cells say nothing of the slide's own sharpness.
    """

    mpp: float = 2.0
    cell: float = 128.0
    block: int = 16
    tissue: float = 0.5
    contrast: float = 1.5
    relative: float = 0.3
    absolute: float = 0.25
    cells: int = 6
    judged: int = 12


def find_out_of_focus(
    slide: Slide, grid: PixelGrid, tissue: np.ndarray, parameters: FocusParameters | None = None
) -> np.ndarray:
    """(h, w) bool over ``grid``: tissue that is clearly less sharp than the rest of the slide's tissue.

    Args:
        slide: to read from.
        grid: of the overview.
        tissue: (h, w) bool over ``grid``.
    """
    p = parameters or FocusParameters()
    if slide.info.resolution.mean > 2 * p.mpp or not tissue.any():
        return np.zeros_like(tissue)
    fine = PixelGrid.over(grid.region, slide.info.resolution, p.mpp)
    sharpness = _measure_cells(slide, fine, grid, tissue, p)
    unsharp = _judge_cells(sharpness, p)
    return _cells_on_overview(unsharp, fine, grid, p) & tissue


def band_ratio(grey: np.ndarray, cell: int, contrast: float) -> np.ndarray:
    """Energy of the finest band over that of the next, cell by cell.

    Args:
        grey: (rows * cell, cols * cell) float32 intensities.
        cell: side of a cell, px.
        contrast: least standard deviation of the coarser band, grey levels.

    Returns:
        (rows, cols) float64; NaN where there is too little contrast to tell.
    """
    soft, softer = (ndimage.gaussian_filter(grey, sigma, truncate=3) for sigma in (1.0, 2.5))
    fine, coarse = _cell_means((grey - soft) ** 2, cell), _cell_means((soft - softer) ** 2, cell)
    return np.where(coarse >= contrast**2, fine / np.maximum(coarse, 1e-9), np.nan)


def _cell_means(values: np.ndarray, cell: int) -> np.ndarray:
    rows, cols = values.shape[0] // cell, values.shape[1] // cell
    return values.reshape(rows, cell, cols, cell).mean(axis=(1, 3), dtype=np.float64)


def _measure_cells(
    slide: Slide, fine: PixelGrid, grid: PixelGrid, tissue: np.ndarray, p: FocusParameters
) -> np.ndarray:
    """(rows, cols) float64 sharpness of the cells on tissue; NaN elsewhere."""
    cell = round(p.cell / p.mpp)
    # Whole cells only: the white outside the slide is sharp against tissue. What is left over follows its neighbour.
    rows, cols = max(1, fine.height // cell), max(1, fine.width // cell)
    on_tissue = _tissue_share(tissue, grid, fine, rows, cols, cell) >= p.tissue
    sharpness = np.full((rows, cols), np.nan)
    for row in range(0, rows, p.block):
        for col in range(0, cols, p.block):
            part = np.s_[row : row + p.block, col : col + p.block]
            wanted = on_tissue[part]
            if not wanted.any():
                continue
            size = (wanted.shape[1] * cell, wanted.shape[0] * cell)
            image = slide.read_grid(fine.to_level0.shifted(col * cell, row * cell), size)
            grey = image.mean(axis=-1, dtype=np.float32)
            sharpness[part] = np.where(wanted, band_ratio(grey, cell, p.contrast), np.nan)
    return sharpness


def _tissue_share(tissue: np.ndarray, grid: PixelGrid, fine: PixelGrid, rows: int, cols: int, cell: int) -> np.ndarray:
    """(rows, cols): share of tissue in each cell."""
    x, y = np.meshgrid(np.arange(cols) * cell, np.arange(rows) * cell)
    corners = np.stack([x, y, x + cell, y + cell], axis=-1).reshape(-1, 2, 2)
    rectangles = fine.to_level0.apply(corners).reshape(-1, 4)
    return TissueMask(grid, tissue).shares(rectangles).reshape(rows, cols)


def _judge_cells(sharpness: np.ndarray, p: FocusParameters) -> np.ndarray:
    judged = sharpness[np.isfinite(sharpness)]
    if len(judged) < p.judged:
        return np.zeros(sharpness.shape, bool)
    limit = min(p.absolute, p.relative * float(np.percentile(judged, 75)))
    unsharp = np.isfinite(sharpness) & (sharpness < limit)
    unsharp_around, judged_around = (_count_around(cells) for cells in (unsharp, np.isfinite(sharpness)))
    # A flat cell among unsharp ones shares their fate; an unsharp cell with hardly a neighbour is chance.
    follows = np.isnan(sharpness) & (unsharp_around >= 2) & (unsharp_around >= 0.6 * judged_around)
    return without_small_pieces((unsharp & (unsharp_around >= 3)) | follows, p.cells)


def _count_around(cells: np.ndarray) -> np.ndarray:
    return ndimage.convolve(cells.astype(np.int32), np.ones((3, 3), np.int32), mode="constant")


def _cells_on_overview(cells: np.ndarray, fine: PixelGrid, grid: PixelGrid, p: FocusParameters) -> np.ndarray:
    cell = round(p.cell / p.mpp)
    x = ((np.arange(grid.width) + 0.5) * grid.mpp / p.mpp / cell).astype(np.int64)
    y = ((np.arange(grid.height) + 0.5) * grid.mpp / p.mpp / cell).astype(np.int64)
    x, y = np.minimum(x, cells.shape[1] - 1), np.minimum(y, cells.shape[0] - 1)
    return cells[np.ix_(y, x)]
