"""Tissue on an overview by stain density: Otsu (1979) between guards, black borders and glass edges removed.

Otsu alone fails in three ways that archives show every day: it splits the noise of an empty slide, it splits a
slide that is all tissue, and it loses pale tissue beside dark tissue. So its threshold only counts between two
absolute optical densities; and what is grey at any darkness (dust, shadows, pencil, scanner borders) is no
tissue, because a stain has a colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from wsi_pipeline.tissue.colour import density_table, glass_colour, optical_density
from wsi_pipeline.tissue.morphology import (
    by_rows,
    closed,
    dilated,
    without_small_holes,
    without_small_pieces,
)
from wsi_pipeline.workflow import TissueSettings

_STEPS = 500.0
"""Steps per unit of stain density in its 8-bit map."""


@dataclass(frozen=True, slots=True)
class TissueParameters:
    """Optical densities (base 10) and lengths in µm.

    Attributes:
        least, most: the range Otsu's threshold may take, as stain density (see ``_stain_density``); ``least`` is
            above the unevenness of glass, ``most`` below pale stroma.
        grey: a pixel whose channels differ by less, absolutely, has no colour.
        grey_ratio: nor has one whose channels differ by less than this share of its density.
        greyscale: intensity levels; a slide of which not one pixel in a hundred differs by more is a greyscale image.
        black: brightest channel of a scanner border or the frame of a slide holder.
        border_side: a black or grey piece along the image border is a border when it covers this share of a side.
        edge_width: a piece along the image border that is no wider and runs along most of a side is a glass edge.
        halo: what is cut off around a black border, where it fades out.
    """

    least: float = 0.035
    most: float = 0.05
    grey: float = 0.012
    grey_ratio: float = 0.1
    greyscale: int = 1
    black: int = 60
    border_side: float = 0.25
    edge_width: float = 250.0
    halo: float = 24.0


def stain_mask(image: np.ndarray, parameters: TissueParameters | None = None) -> np.ndarray:
    """(h, w, 3) uint8 RGB overview → (h, w) bool: pixels with more stain than glass, before any clean-up."""
    p = parameters or TissueParameters()
    table = density_table(glass_colour(image))
    greyscale = _is_greyscale(image, p)
    stain = by_rows(lambda rows: _stain_density(rows, table, greyscale, p), image)
    # On a single value Otsu returns that value; the guards then decide, as wherever it leaves their range.
    return stain > np.clip(threshold_otsu(stain), p.least * _STEPS, p.most * _STEPS)


def find_borders(image: np.ndarray, mpp: float, parameters: TissueParameters | None = None) -> np.ndarray:
    """(h, w) bool: black scanner borders and slide frames, with their fading rim.

    Args:
        image: (h, w, 3) uint8 RGB overview.
        mpp: its µm per px.
    """
    p = parameters or TissueParameters()
    black = by_rows(lambda rows: rows.max(axis=-1) < p.black, image)
    labels, count = ndimage.label(black)
    sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    border = np.zeros(count + 1, bool)
    for side in sides:
        border |= np.bincount(side, minlength=count + 1) >= p.border_side * len(side)
    border[0] = False
    return dilated(border[labels], max(1, round(p.halo / mpp)))


def clean_tissue(mask: np.ndarray, mpp: float, settings: TissueSettings) -> np.ndarray:
    """Close gaps, fill small holes, drop small pieces and glass edges; sizes in µm from the settings."""
    area = mpp**2
    mask = closed(mask, settings.close / mpp)
    mask = without_small_holes(mask, settings.max_hole / area)
    mask = without_small_pieces(mask, settings.min_area / area)
    return mask & ~_glass_edges(mask, mpp, TissueParameters())


def _is_greyscale(image: np.ndarray, p: TissueParameters) -> bool:
    coloured = by_rows(lambda rows: np.ptp(rows, axis=-1) > p.greyscale, image)
    return bool(coloured.mean() < 0.01)


def _stain_density(image: np.ndarray, table: np.ndarray, greyscale: bool, p: TissueParameters) -> np.ndarray:
    """8-bit map of half the mean density plus 1.5 times the difference of the channels; 0 without colour.

    Colour counts for more because stain has it and shade has not.
    """
    density = optical_density(image, table)
    mean = density.mean(axis=-1)
    if greyscale:
        return np.minimum(mean / 2 * _STEPS, 255).astype(np.uint8)
    chroma = np.ptp(density, axis=-1)
    coloured = chroma >= np.maximum(p.grey, p.grey_ratio * mean)
    return np.where(coloured, np.minimum((mean / 2 + 1.5 * chroma) * _STEPS, 255), 0).astype(np.uint8)


def _glass_edges(mask: np.ndarray, mpp: float, p: TissueParameters) -> np.ndarray:
    """Thin straight pieces along the image's border: the edge of the glass or the coverslip, not tissue."""
    labels, count = ndimage.label(mask, np.ones((3, 3), bool))
    edge = np.zeros(count + 1, bool)
    height, width = mask.shape
    widest = p.edge_width / mpp
    if min(height, width) <= 4 * widest:  # an overview this small is a detail of tissue, not a whole slide
        return np.zeros_like(mask)
    for number, (rows, cols) in enumerate(ndimage.find_objects(labels), start=1):
        tall, wide = rows.stop - rows.start, cols.stop - cols.start
        beside = cols.start == 0 or cols.stop == width
        above = rows.start == 0 or rows.stop == height
        edge[number] = (beside and wide <= widest and tall >= 0.5 * height) or (
            above and tall <= widest and wide >= 0.5 * width
        )
    return edge[labels]
