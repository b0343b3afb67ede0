"""What a reader has to offer: levels that can be read in whole pixels, and what the file says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Region
from wsi_pipeline.slides.resolution import MppClaim


@dataclass(frozen=True, slots=True)
class ReaderFacts:
    """What a file says about itself.

    Attributes:
        reader: ``openslide``, ``tiff``, ``ngff`` or ``image``.
        vendor: the format as the reader names it.
        level_sizes: (width, height) px of every level, finest first.
        claims: the pixel sizes the file states, most trusted first.
        bounds: the scanned part, level-0 px; None where the format does not say.
        associated: names of the associated images.
        icc_profile: the colour profile of the pixels as stored in the file.
        identity: anything else that identifies the pixels; part of the fingerprint.
        warnings: one line each.
    """

    reader: str
    vendor: str
    level_sizes: tuple[tuple[int, int], ...]
    claims: tuple[MppClaim, ...] = ()
    bounds: Region | None = None
    associated: tuple[str, ...] = ()
    icc_profile: bytes | None = None
    identity: str = ""
    warnings: tuple[str, ...] = ()


class LevelReader(Protocol):
    """An open slide file; all methods may be called from several threads at once."""

    @property
    def facts(self) -> ReaderFacts:
        """What the file says about itself."""
        ...

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a window that lies inside the level.

        Args:
            level: index into ``facts.level_sizes``.
            x, y, width, height: the window, px of that level, not empty.

        Returns:
            (height, width, 3) uint8 RGB, transparent pixels composited on white. The value of a pixel does not
            depend on the window it is read through.

        Raises:
            SlideError: the file is damaged there; names the slide and the window.
        """
        ...

    def associated_image(self, name: str) -> np.ndarray:
        """An associated image, (h, w, 3) uint8 RGB; ``name`` is one of ``facts.associated``."""
        ...

    def close(self) -> None:
        """Let go of the file as soon as reads under way are done."""
        ...


def damaged(path: object, level: int, x: int, y: int, width: int, height: int, reason: object) -> SlideError:
    """The error of a window that cannot be read."""
    return SlideError(
        f"cannot read the region x={x} y={y} w={width} h={height} of level {level} ({reason})",
        where=path,
        fix="The file is damaged there: copy it again from its source or leave the slide out",
    )
