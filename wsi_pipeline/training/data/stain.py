"""Other laboratories' stains: how much of each dye there is, and what colour it is.

In optical density a stained px is a sum of dyes (Beer and Lambert), so unmixing by the dyes' vectors (Ruifrok and
Johnston 2001), changing each dye's amount and mixing with other vectors is one linear map. It has no offset, as
published jitters have (Tellez et al. 2018): where there is no dye there is none to change, and white stays white.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.color import rgb_from_hed

from wsi_pipeline.tissue.colour import density_table, optical_density

_WHITE = np.full(3, 255.0)


@dataclass(frozen=True, slots=True)
class StainRange:
    """What a change of stain is drawn from.

    Attributes:
        amount: a dye's amount changes by a factor of up to ``1 + amount``, or one over it.
        colour: how much the parts of a dye's vector change, as a share of its length.
    """

    amount: float = 0.35
    colour: float = 0.05


def draw_stain(allowed: StainRange, random: np.random.Generator) -> np.ndarray:
    """(3, 3) float64: the map of optical densities (rows, r g b) that ``restained`` applies."""
    amounts = np.exp(random.uniform(-1, 1, 3) * np.log1p(allowed.amount))
    dyes = rgb_from_hed / np.linalg.norm(rgb_from_hed, axis=1, keepdims=True)
    others = np.maximum(dyes + random.uniform(-1, 1, (3, 3)) * allowed.colour, 0)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    return np.linalg.inv(dyes) @ np.diag(amounts) @ others


def restained(image: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB with its optical densities mapped by ``change`` (3, 3)."""
    density = optical_density(image, density_table(_WHITE)) @ change.astype(np.float32)
    # the inverse of density_table, which sees 255 as 256
    return np.clip(np.rint(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)
