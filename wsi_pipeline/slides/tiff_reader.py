"""OME-TIFF and tiled TIFF through tifffile: sub-IFD pyramids, multi-page resolutions, every codec of imagecodecs.

Segments are decoded one by one and kept in the process's chunk cache; tifffile's own Zarr view would decode the
same segments through an event loop, at several times the cost per tile.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.base import ReaderFacts
from wsi_pipeline.slides.resolution import MppClaim, claim_from_objective, claim_from_tags, in_microns
from wsi_pipeline.slides.tiff_pages import TiffLevel, TiffPixels

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

_UNITS = {2: "inch", 3: "centimeter"}
_ICC_PROFILE = 34675


def is_ome_tiff(path: Path) -> bool:
    """Whether a TIFF carries OME metadata."""
    from tifffile import TiffFile

    try:
        with TiffFile(path) as tif:
            return bool(tif.is_ome)
    except Exception:
        # tifffile meets damaged headers with many kinds of exceptions; whoever opens the file will say more.
        return False


def plain_tiles(path: Path, facts: ReaderFacts) -> TiffPixels | None:
    """The levels of an Aperio slide without OpenSlide's composing, which costs more than decoding.

    Only where that gives the same pixels: every tile is stored, and is JPEG. Anything else (JPEG 2000 in YCbCr,
    tiles left out) is None and stays with OpenSlide.
    """
    try:
        with _open(path) as tif:
            levels = [TiffLevel(series, where=path) for series in tif.series[0].levels]
    except Exception:
        # Whatever tifffile cannot make sense of, OpenSlide has opened it and can read it.
        return None
    same_sizes = tuple((level.width, level.height) for level in levels) == facts.level_sizes
    if not same_sizes or not all(level.is_jpeg and level.is_complete for level in levels):
        return None
    return TiffPixels(path, levels)


class TiffReader:
    """A ``LevelReader`` on tifffile.

    8-bit grey, RGB, RGBA, CMYK and palette images, and 16-bit RGB (its low byte is dropped). The largest image
    of the file is the slide; other images are its resolutions where they have its proportions, else associated.
    """

    def __init__(self, path: Path) -> None:
        """Raises SlideError where the file is no readable bright-field TIFF."""
        self._path = path
        try:
            with _open(path) as tif:
                main, series = _pyramid(tif)
                levels = [TiffLevel(s, where=path) for s in series]
                self.facts = _facts_of(tif, main, levels)
        except SlideError:
            raise
        except Exception as error:
            # What tifffile raises on a damaged directory ranges from struct.error to KeyError.
            raise _unreadable(path, error) from None
        self._pixels = TiffPixels(path, levels)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See ``LevelReader.read``."""
        return self._pixels.read(level, x, y, width, height)

    def associated_image(self, name: str) -> np.ndarray:
        """See ``LevelReader.associated_image``."""
        try:
            with _open(self._path) as tif:
                level = TiffLevel(_associated(tif)[name], where=self._path)
            pixels = TiffPixels(self._path, [level])
            image = pixels.read(0, 0, 0, level.width, level.height)
            pixels.forget()
            return image
        except SlideError:
            raise
        except Exception as error:
            raise SlideError(f"cannot read the associated image {name} ({error})", where=self._path) from None

    def close(self) -> None:
        """See ``LevelReader.close``."""
        self._pixels.forget()


def _facts_of(tif: TiffFile, main: TiffPageSeries, levels: list[TiffLevel]) -> ReaderFacts:
    page = main.keyframe
    ome = _parse_ome(tif)
    claims = [_claim_of_ome(ome), _claim_of_page(page), _claim_of_ome_objective(ome)]
    profile = page.tags.valueof(_ICC_PROFILE)
    return ReaderFacts(
        reader="tiff",
        vendor="ome-tiff" if tif.is_ome else "tiff",
        level_sizes=tuple((level.width, level.height) for level in levels),
        claims=tuple(claim for claim in claims if claim is not None),
        associated=tuple(_associated(tif)),
        icc_profile=bytes(profile) if profile is not None else None,
        warnings=_warnings(main, levels[0].channels),
    )


def _warnings(main: TiffPageSeries, channels: int) -> tuple[str, ...]:
    if channels == 1 and main.keyframe.photometric != 3:
        return ("the image is grey; its values are repeated as red, green and blue",)
    if "C" in main.axes:
        return (f"{channels} separate channels are taken as red, green and blue",)
    if np.dtype(main.dtype) == np.uint16:
        return ("16-bit pixels are reduced to 8 bits by dropping the low byte",)
    return ()


def _open(path: Path) -> TiffFile:
    from tifffile import TiffFile

    try:
        return TiffFile(path)
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> SlideError:
    return SlideError(
        f"is no readable TIFF ({error or type(error).__name__})",
        where=path,
        fix="The file is damaged or truncated: copy it again from its source",
    )


def _pyramid(tif: TiffFile) -> tuple[TiffPageSeries, list[TiffPageSeries]]:
    """The largest image and all its resolutions, finest first, itself included."""
    if not tif.series:
        raise ValueError("it holds no image")
    main = max(tif.series, key=lambda s: s.keyframe.imagewidth * s.keyframe.imagelength)
    candidates = [*main.levels, *(level for s in tif.series if s is not main for level in s.levels)]
    levels: dict[int, TiffPageSeries] = {}
    for candidate in candidates:
        if candidate is main or _is_resolution_of(main, candidate):
            levels.setdefault(int(candidate.keyframe.imagewidth), candidate)
    return main, [levels[width] for width in sorted(levels, reverse=True)]


def _is_resolution_of(main: TiffPageSeries, other: TiffPageSeries) -> bool:
    a, b = main.keyframe, other.keyframe
    same_make = (a.samplesperpixel, a.dtype, a.is_tiled) == (b.samplesperpixel, b.dtype, b.is_tiled)
    if not same_make or len(main.pages) != len(other.pages) or b.imagewidth > a.imagewidth:
        return False
    # Writers round either way, so the smaller side may be off by a pixel or two.
    return abs(b.imagelength - a.imagelength * b.imagewidth / a.imagewidth) <= 2


def _associated(tif: TiffFile) -> dict[str, TiffPageSeries]:
    main, _ = _pyramid(tif)
    named: dict[str, TiffPageSeries] = {}
    for number, series in enumerate(tif.series):
        if series is not main and not _is_resolution_of(main, series):
            name = re.sub(r"\s+", " ", series.name or "").strip().lower() or f"image {number}"
            named.setdefault(name if name not in named else f"{name} {number}", series)
    return named


def _claim_of_page(page: TiffPage) -> MppClaim | None:
    unit = _UNITS.get(int(page.tags.valueof(296, 2)), "")
    values = [page.tags.valueof(code) for code in (282, 283)]
    x, y = (v[0] / v[1] if v and v[1] else 0.0 for v in values)
    return claim_from_tags(x or y, y or x, unit)


def _parse_ome(tif: TiffFile) -> ElementTree.Element | None:
    if not tif.is_ome or not tif.ome_metadata:
        return None
    try:
        return ElementTree.fromstring(tif.ome_metadata)
    except ElementTree.ParseError:
        return None


def _claim_of_ome(ome: ElementTree.Element | None) -> MppClaim | None:
    """``PhysicalSizeX``/``Y`` of the largest image, whose unit is µm unless stated."""
    pixels = [] if ome is None else ome.findall(".//{*}Pixels")
    if not pixels:
        return None
    main = max(pixels, key=lambda p: float(p.get("SizeX", 0)) * float(p.get("SizeY", 0)))
    sizes = []
    for axis in "XY":
        value = main.get(f"PhysicalSize{axis}")
        sizes.append(value and in_microns(float(value), main.get(f"PhysicalSize{axis}Unit", "um")))
    x, y = sizes[0] or sizes[1], sizes[1] or sizes[0]
    if not x or not y:
        return None
    return MppClaim("property", float(x), float(y), f"OME PhysicalSizeX of {float(x):g} µm")


def _claim_of_ome_objective(ome: ElementTree.Element | None) -> MppClaim | None:
    objective = None if ome is None else ome.find(".//{*}Objective[@NominalMagnification]")
    return None if objective is None else claim_from_objective(float(objective.get("NominalMagnification", 0)))
