"""SVS, NDPI, MRXS, SCN, BIF, VMS, DICOM and generic TIFF through OpenSlide."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Region
from wsi_pipeline.slides.base import ReaderFacts, damaged
from wsi_pipeline.slides.chunks import new_owner, read_through, shared_cache
from wsi_pipeline.slides.pixels import rgb_on_white
from wsi_pipeline.slides.resolution import MppClaim, claim_from_objective, claim_from_tags
from wsi_pipeline.slides.tiff_reader import plain_tiles

if TYPE_CHECKING:
    from openslide import OpenSlide, OpenSlideCache

TILE_CACHE_BYTES = 128 * 2**20
"""Decoded tiles OpenSlide keeps in one process, over all its open slides."""

BLOCK = 256
"""px: side of the lattice that levels are read on."""


@cache
def _tile_cache() -> OpenSlideCache:
    from openslide import OpenSlideCache

    return OpenSlideCache(TILE_CACHE_BYTES)


def detect_vendor(path: Path) -> str | None:
    """The format as OpenSlide names it, or None where OpenSlide does not read it."""
    from openslide import OpenSlide, OpenSlideError

    try:
        return OpenSlide.detect_format(path)
    except OpenSlideError:
        return None


class OpenSlideReader:
    """A ``LevelReader`` on an OpenSlide handle.

    After any error OpenSlide refuses everything on the handle, whichever thread caused it. So a failed read is
    repeated on a handle of its own, whose verdict counts, and the shared handle is replaced.
    """

    def __init__(self, path: Path) -> None:
        """Raises SlideError where OpenSlide recognises the file and cannot open it."""
        self._path = path
        self._lock = threading.Lock()
        self._owner = new_owner()
        self._slide: OpenSlide | None = None
        slide = self._shared()
        self._downsamples = slide.level_downsamples
        self.facts = _facts(slide)
        self._tiles = plain_tiles(path, self.facts) if self.facts.vendor == "aperio" else None

    def _open(self) -> OpenSlide:
        from openslide import OpenSlide, OpenSlideError

        try:
            slide = OpenSlide(self._path)
            slide.set_cache(_tile_cache())
        except (OpenSlideError, OSError) as error:
            raise SlideError(
                f"OpenSlide cannot open it ({error})",
                where=self._path,
                fix="The file is damaged or truncated: copy it again from its source",
            ) from None
        return slide

    def _shared(self) -> OpenSlide:
        with self._lock:
            if self._slide is None:
                self._slide = self._open()
            return self._slide

    def _drop(self, broken: OpenSlide) -> None:
        # Not closed by hand: other threads may be inside a read; the last one to leave frees it.
        with self._lock:
            if self._slide is broken:
                self._slide = None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See ``LevelReader.read``."""
        if self._tiles is not None:
            return self._tiles.read(level, x, y, width, height)
        # OpenSlide takes corners in level-0 px. Where those fall between pixels of the level it interpolates, by
        # an amount that differs from window to window; on a fixed lattice a pixel has one value. And composing a
        # window costs OpenSlide more than decoding it, so what overlapping tiles share is composed once.
        level_width, level_height = self.facts.level_sizes[level]

        def block(row: int, col: int) -> np.ndarray:
            left, top = col * BLOCK, row * BLOCK
            size = min(BLOCK, level_width - left), min(BLOCK, level_height - top)
            key = (self._owner, level, row, col)
            return shared_cache().get(key, lambda: self._read_window(level, left, top, *size))

        return read_through((BLOCK, BLOCK), (x, y, width, height), block)

    def _read_window(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        from openslide import OpenSlideError

        downsample = self._downsamples[level]
        corner = round(x * downsample), round(y * downsample)
        slide = self._shared()
        try:
            return rgb_on_white(slide.read_region(corner, level, (width, height)))
        except OpenSlideError:
            self._drop(slide)
        try:
            return rgb_on_white(self._open().read_region(corner, level, (width, height)))
        except OpenSlideError as error:
            raise damaged(self._path, level, x, y, width, height, error) from None

    def associated_image(self, name: str) -> np.ndarray:
        """See ``LevelReader.associated_image``."""
        from openslide import OpenSlideError

        try:
            # A handle of its own: a damaged label must not disturb the reading of tiles.
            return rgb_on_white(self._open().associated_images[name])
        except OpenSlideError as error:
            raise SlideError(f"cannot read the associated image {name} ({error})", where=self._path) from None

    def close(self) -> None:
        """See ``LevelReader.close``."""
        with self._lock:
            self._slide = None
        shared_cache().forget(self._owner)
        if self._tiles is not None:
            self._tiles.forget()


def _facts(slide: OpenSlide) -> ReaderFacts:
    properties = slide.properties
    return ReaderFacts(
        reader="openslide",
        vendor=properties.get("openslide.vendor", "unknown"),
        level_sizes=tuple(slide.level_dimensions),
        claims=claims_of(properties),
        bounds=bounds_of(properties),
        associated=tuple(sorted(slide.associated_images)),
        icc_profile=_icc_profile(slide),
        identity=properties.get("openslide.quickhash-1", ""),
    )


def _icc_profile(slide: OpenSlide) -> bytes | None:
    from PIL.ImageCms import PyCMSError

    try:
        profile = slide.color_profile
    except (PyCMSError, OSError):
        return None
    return None if profile is None else profile.tobytes()


def bounds_of(properties: Mapping[str, str]) -> Region | None:
    """The rectangle of ``openslide.bounds-*``, level-0 px, where all four are stated."""
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    return Region(x, y, width, height) if width > 0 and height > 0 else None


def claims_of(properties: Mapping[str, str]) -> tuple[MppClaim, ...]:
    """What OpenSlide's properties state about the pixel size, most trusted first."""
    claims: list[MppClaim | None] = []
    x, y = _number(properties, "openslide.mpp-x"), _number(properties, "openslide.mpp-y")
    if x or y:
        # For generic TIFF the property is no more than the resolution tags, with their careless defaults.
        source = "tiff-tags" if properties.get("openslide.vendor") == "generic-tiff" else "property"
        x, y = x or y, y or x
        claims.append(MppClaim(source, x, y, f"openslide.mpp-x of {x:g}"))
    claims.append(
        claim_from_tags(
            _number(properties, "tiff.XResolution"),
            _number(properties, "tiff.YResolution"),
            properties.get("tiff.ResolutionUnit", ""),
        )
    )
    claims.append(claim_from_objective(_number(properties, "openslide.objective-power")))
    return tuple(claim for claim in claims if claim is not None)


def _number(properties: Mapping[str, str], key: str) -> float:
    """A property as a number; 0 where it is missing or none."""
    try:
        return float(properties.get(key, "0").replace(",", "."))
    except ValueError:
        return 0.0
