"""One class for every slide: any region at any resolution, as RGB on white."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Affine2D, PixelGrid, Region
from wsi_pipeline.slides.base import LevelReader
from wsi_pipeline.slides.detect import open_reader
from wsi_pipeline.slides.files import fingerprint
from wsi_pipeline.slides.find import find_slides, slide_name
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.slides.pixels import SrgbTransform
from wsi_pipeline.slides.resample import sample
from wsi_pipeline.slides.resolution import resolve_mpp

__all__ = ["Patch", "Slide", "find_slides", "open_slide", "slide_handle", "slide_name"]

LEVEL_TOLERANCE = 0.02
"""A level this much coarser than asked for still serves; the alternative reads several times the pixels."""

OPEN_SLIDES = 8
"""Slides a process keeps open for its workers."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patch:
    """Pixels and where they lie.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        grid: its size, affine to level-0 px and µm per px.
    """

    image: np.ndarray
    grid: PixelGrid


class Slide:
    """A slide that is read lazily, from any thread and, after pickling, from any process.

    A pickled slide is its facts and how to open it; the file is opened at the first read, once per process. A
    closed slide opens again when it is read.

    Args:
        info: the facts, see ``SlideInfo``.
        opener: opens the reader; must be picklable for the slide to be.
        icc: convert the colours of an embedded ICC profile to sRGB.
        reader: an open reader, if there is one already.
    """

    def __init__(
        self,
        info: SlideInfo,
        opener: Callable[[], LevelReader],
        *,
        icc: bool = False,
        reader: LevelReader | None = None,
    ) -> None:
        self.info = info
        self._opener, self._icc = opener, icc
        self._reset(reader)

    def _reset(self, reader: LevelReader | None) -> None:
        self._lock = threading.Lock()
        self._reader, self._process = reader, os.getpid()
        self._colours: SrgbTransform | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"info": self.info, "_opener": self._opener, "_icc": self._icc}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slide({self.info.path!r})"

    def close(self) -> None:
        """Let go of the file; reads under way in other threads end well."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._reader = None

    def _open(self) -> tuple[LevelReader, SrgbTransform | None]:
        with self._lock:
            # A forked process must not share the parent's handle, nor its file position.
            if self._reader is None or self._process != os.getpid():
                reader = self._opener()
                if reader.facts.level_sizes != self.info.level_sizes:
                    raise SlideError("changed since it was opened", where=self.info.path, fix="Start again")
                self._reader, self._process = reader, os.getpid()
            if self._icc and self._colours is None and self._reader.facts.icc_profile:
                self._colours = SrgbTransform(self._reader.facts.icc_profile, where=self.info.path)
            return self._reader, self._colours

    def level_scale(self, level: int) -> tuple[float, float]:
        """Level-0 px per px of a level along x and y: ``w0 / w_level``, never rounded."""
        width, height = self.info.level_sizes[level]
        return self.info.width / width, self.info.height / height

    def level_for(self, scale: float) -> int:
        """The coarsest level that still has the detail of ``scale`` level-0 px per px."""
        best = 0
        for level in range(len(self.info.level_sizes)):
            x, y = self.level_scale(level)
            if math.sqrt(x * y) <= scale * (1 + LEVEL_TOLERANCE):
                best = level
        return best

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        """Read a raster of any scale and offset from the best level.

        Args:
            to_level0: maps the raster's pixel corners to level-0 px.
            size: (width, height) of the raster, px.

        Returns:
            (height, width, 3) uint8 RGB; white outside the slide. Pixels are copied where the raster falls on
            those of a level, and else interpolated, averaging when shrinking.

        Raises:
            SlideError: the file is damaged there, or has gone.
        """
        level = self.level_for(math.sqrt(to_level0.sx * to_level0.sy))
        to_level = Affine2D(*self.level_scale(level)).inverse().after(to_level0)
        reader, colours = self._open()

        def read(x: int, y: int, width: int, height: int) -> np.ndarray:
            pixels = reader.read(level, x, y, width, height)
            return pixels if colours is None else colours.apply(pixels)

        return sample(read, self.info.level_sizes[level], to_level, size)

    def read(self, region: Region, mpp: float) -> Patch:
        """Read a region (level-0 px) at ``mpp`` µm per px; see ``read_grid``."""
        grid = PixelGrid.over(region, self.info.resolution, mpp)
        return Patch(self.read_grid(grid.to_level0, (grid.width, grid.height)), grid)

    def working_grid(self, mpp: float, region: Region | None = None, *, snap: float = 0.05) -> PixelGrid:
        """The raster to work on at about ``mpp``.

        Args:
            mpp: µm per px wanted.
            region: what to cover, level-0 px; the slide's bounds by default.
            snap: where a level's µm per px differs from ``mpp`` by at most this share, the raster is that
                level's own pixels, from the one that holds the region's corner on.

        Returns:
            A grid that covers the region; its ``mpp`` is the true one.
        """
        region = region or self.info.bounds
        level = self._level_near(mpp, snap)
        if level is None:
            return PixelGrid.over(region, self.info.resolution, mpp)
        sx, sy = self.level_scale(level)
        # Level pixels that hold the region's corners; the slack keeps a corner on a pixel edge on that edge.
        x0, y0, x1, y1 = region.bounds
        left, top = math.floor(x0 / sx + 1e-6), math.floor(y0 / sy + 1e-6)
        right, bottom = math.ceil(x1 / sx - 1e-6), math.ceil(y1 / sy - 1e-6)
        return PixelGrid(
            max(1, right - left),
            max(1, bottom - top),
            Affine2D(sx, sy, left * sx, top * sy),
            math.sqrt(sx * sy) * self.info.resolution.mean,
        )

    def _level_near(self, mpp: float, snap: float) -> int | None:
        """The level whose pixels measure closest to ``mpp``, if within ``snap`` of it along both axes."""

        def distance(level: int) -> float:
            sx, sy = self.level_scale(level)
            return max(abs(sx * self.info.resolution.x / mpp - 1), abs(sy * self.info.resolution.y / mpp - 1))

        nearest = min(range(len(self.info.level_sizes)), key=distance)
        return nearest if distance(nearest) <= snap else None

    def thumbnail(self, max_size: int) -> Patch:
        """The slide's bounds, at most ``max_size`` px wide and high and never enlarged."""
        bounds, resolution = self.info.bounds, self.info.resolution
        fitting = max(bounds.width * resolution.x, bounds.height * resolution.y) / max_size
        return self.read(bounds, max(fitting, resolution.x, resolution.y))

    def associated_image(self, name: str) -> np.ndarray:
        """An associated image such as ``label`` or ``macro``, (h, w, 3) uint8 RGB, colours as stored.

        Raises:
            SlideError: no such image, or a damaged one.
        """
        if name not in self.info.associated:
            has = ", ".join(self.info.associated) or "none"
            raise SlideError(f"has no associated image {name}", where=self.info.path, fix=f"It has: {has}")
        return self._open()[0].associated_image(name)


def open_slide(path: str | os.PathLike[str], *, mpp: float | None = None, icc: bool = False) -> Slide:
    """Open a slide with the reader it is for; see ``detect.open_reader``.

    Args:
        path: a file, an OME-Zarr folder or a folder of DICOM files.
        mpp: µm per level-0 px, where the user knows better than the file.
        icc: convert the colours of an embedded ICC profile to sRGB.

    Raises:
        SlideError: missing, empty, forbidden, damaged or of no known format.
        ResolutionError: µm per px unknown or out of 0.05 … 20.
    """
    path = Path(path)
    opener = partial(open_reader, path)
    reader = opener()
    try:
        info = _info(path, reader, mpp)
        slide = Slide(info, opener, icc=icc, reader=reader)
        slide._open()
    except BaseException:
        reader.close()
        raise
    for warning in info.warnings:
        logger.warning("%s: %s", info.name, warning)
    return slide


def _info(path: Path, reader: LevelReader, mpp: float | None) -> SlideInfo:
    facts = reader.facts
    resolution, source, doubts = resolve_mpp(facts.claims, user=mpp, where=path)
    width, height = facts.level_sizes[0]
    whole = Region(0, 0, width, height)
    bounds = facts.bounds.intersection(whole) if facts.bounds else whole
    if bounds.is_empty:
        raise SlideError(f"its bounds {facts.bounds} lie outside the slide", where=path, fix="The file is damaged")
    try:
        print_of_pixels = fingerprint(path, facts.level_sizes, facts.identity)
    except OSError as error:
        raise SlideError(f"cannot be read ({error.strerror or error})", where=path, fix="Check the file") from None
    return SlideInfo(
        path=str(path),
        name=slide_name(path),
        width=width,
        height=height,
        resolution=resolution,
        mpp_source=source,
        bounds=bounds,
        has_bounds=facts.bounds is not None,
        level_sizes=facts.level_sizes,
        reader=facts.reader,
        vendor=facts.vendor,
        fingerprint=print_of_pixels,
        associated=facts.associated,
        warnings=(*facts.warnings, *doubts),
    )


_handles: OrderedDict[tuple[Any, ...], Slide] = OrderedDict()
_handles_lock = threading.Lock()


def slide_handle(path: str | os.PathLike[str], mpp: float | None = None, *, icc: bool = False) -> Slide:
    """The process's one open handle of a slide, opened if need be; for workers. Do not close it.

    Keeps the ``OPEN_SLIDES`` last used ones open; a file that was replaced is opened anew. Raises as
    ``open_slide`` does.
    """
    path = os.path.abspath(path)
    try:
        stat = os.stat(path)
        version = (stat.st_size, stat.st_mtime_ns)
    except OSError:
        version = (0, 0)  # open_slide says what is wrong
    key = (os.getpid(), path, version, mpp, icc)
    with _handles_lock:
        slide = _handles.get(key)
        if slide is None:
            slide = _handles[key] = open_slide(path, mpp=mpp, icc=icc)
        _handles.move_to_end(key)
        while len(_handles) > OPEN_SLIDES:
            # Closing lets reads under way finish, and whoever still holds the slide can go on reading it.
            _handles.popitem(last=False)[1].close()
        return slide
