"""Pen marks on an overview: green, blue, red and black ink, told from stains by their optical density.

Judged conservatively, because a wrong artefact loses tissue: ink must be dense, broad, and of a colour that the
stains of the slide do not have; blue and red ink, which haematoxylin and blood resemble, must besides lie on
glass, as a stroke around tissue does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from wsi_pipeline.tissue.colour import density_table, glass_colour, optical_density
from wsi_pipeline.tissue.morphology import by_rows, dilated, opened, pieces_holding, without_small_pieces

_GREEN, _BLUE, _RED, _BLACK = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class PenParameters:
    """Optical densities (base 10), lengths in µm, areas in µm².

    Attributes:
        dense: least density of ink in the channel it absorbs most.
        dense_red: the same of red ink, above what blood reaches.
        green: how much less than red and blue light green ink absorbs green light; no stain does that.
        black: brightest channel of black ink.
        black_ratio: most colour of black ink, as a share of its density.
        width: thinner strokes are no pen.
        area: smaller strokes are no pen.
        rim: how far the faint rim of a stroke reaches.
        on_glass: least share of glass right around a stroke of blue or red ink.
        blue_stain: a slide with more blue stain than this, as a share of its stained area, has no blue ink:
            it is a haematoxylin counterstain, a trichrome or Alcian blue.
    """

    dense: float = 0.4
    dense_red: float = 0.75
    green: float = 0.08
    black: int = 60
    black_ratio: float = 0.2
    width: float = 60.0
    area: float = 60_000.0
    rim: float = 40.0
    on_glass: float = 0.5
    blue_stain: float = 0.1


def find_pen(
    image: np.ndarray, mpp: float, stained: np.ndarray, borders: np.ndarray, parameters: PenParameters | None = None
) -> np.ndarray:
    """Ink on the glass.

    Args:
        image: (h, w, 3) uint8 RGB overview.
        mpp: its µm per px.
        stained: (h, w) bool, everything that has a stain's colour (``stain_mask``).
        borders: (h, w) bool, scanner borders, which are as black as ink.

    Returns:
        (h, w) bool.
    """
    p = parameters or PenParameters()
    table = density_table(glass_colour(image))
    inks = by_rows(lambda rows: _ink_colours(rows, table, p), image)
    not_glass = stained | borders | (inks > 0)
    ink = _strokes(inks & _GREEN > 0, mpp, p) | _strokes((inks & _BLACK > 0) & ~borders, mpp, p)
    candidates = [inks & _RED > 0]
    if not _is_blue_stained(image, stained, table, p):
        candidates.append(inks & _BLUE > 0)
    for candidate in candidates:
        ink |= _lying_on_glass(_strokes(candidate, mpp, p), not_glass, mpp, p)
    return ink


def _ink_colours(image: np.ndarray, table: np.ndarray, p: PenParameters) -> np.ndarray:
    """Bit set of the inks each pixel may be."""
    density = optical_density(image, table)
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    highest, lowest = density.max(axis=-1), density.min(axis=-1)
    is_green = (highest > p.dense) & (green < red - p.green) & (green < blue - p.green / 2) & (green < 0.8 * red)
    is_blue = (red > p.dense) & (blue < 0.35 * red) & (green < 0.9 * red)
    is_red = (green > p.dense_red) & (blue > 0.65 * green) & (red < 0.25 * green)
    is_black = (image.max(axis=-1) < p.black) & (highest - lowest < p.black_ratio * highest)
    return (is_green * _GREEN | is_blue * _BLUE | is_red * _RED | is_black * _BLACK).astype(np.uint8)


def _strokes(colour: np.ndarray, mpp: float, p: PenParameters) -> np.ndarray:
    """Broad, large areas of one ink with their thinner parts and their rim."""
    core = opened(colour, p.width / mpp)
    strokes = without_small_pieces(pieces_holding(colour, core), p.area / mpp**2) if core.any() else core
    return dilated(strokes, round(p.rim / mpp / 2))


def _is_blue_stained(image: np.ndarray, stained: np.ndarray, table: np.ndarray, p: PenParameters) -> bool:
    def blueish(rows: np.ndarray) -> np.ndarray:
        density = optical_density(rows, table)
        red = density[..., 0]
        faint = (red > 0.05) & (red < p.dense)
        return faint & (density[..., 1] < 0.9 * red) & (density[..., 2] < 0.6 * red)

    return bool((by_rows(blueish, image) & stained).sum() > p.blue_stain * stained.sum())


def _lying_on_glass(strokes: np.ndarray, not_glass: np.ndarray, mpp: float, p: PenParameters) -> np.ndarray:
    """The strokes around which there is mostly glass."""
    labels, count = ndimage.label(strokes, np.ones((3, 3), bool))
    if count == 0:
        return strokes
    reach = max(2, round(2 * p.rim / mpp))
    around = ndimage.maximum_filter(labels, 2 * reach + 1, mode="constant", cval=0)
    inner = dilated(strokes, max(1, reach // 2))  # the blurred rim of a stroke is neither ink nor glass
    ring = np.where(inner, 0, around)
    size = np.bincount(ring.ravel(), minlength=count + 1)
    glass = np.bincount(ring.ravel(), weights=(~not_glass).ravel(), minlength=count + 1)
    keep = glass >= p.on_glass * np.maximum(size, 1)
    keep[0] = False
    return keep[labels]
