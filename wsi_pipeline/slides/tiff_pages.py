"""One resolution of a TIFF: which segment holds which pixels, and how a segment becomes RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.base import damaged
from wsi_pipeline.slides.chunks import new_owner, read_through, shared_cache
from wsi_pipeline.slides.files import RandomAccessFile
from wsi_pipeline.slides.pixels import WHITE, check_samples, rgb_from_samples

if TYPE_CHECKING:
    from tifffile import TiffPage, TiffPageSeries

MAX_SEGMENT_BYTES = 2**30
"""A compressed tile or strip that decodes to more than this is refused."""

MAPPED_FROM = 2**24
"""An uncompressed image in one piece of at least this many bytes is mapped into memory instead of read whole."""

_MINISWHITE, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 2, 3, 5, 6
_JPEG_COMPRESSIONS = (6, 7, 34892, 33007)


@dataclass(frozen=True, slots=True)
class _Plane:
    """One page of a level: where its segments lie and how they are decoded."""

    page: TiffPage
    offsets: np.ndarray
    counts: np.ndarray
    separate: int


class TiffLevel:
    """Pixels of one resolution, segment by segment.

    Attributes:
        width, height: px.
        chunk_size: (width, height) px of a segment; a strip is as wide as the level.
        channels: samples per pixel over all pages.
        dtype: of the stored samples.
        is_jpeg: whether the segments are JPEG of 8-bit RGB or YCbCr.
        is_complete: whether every segment is stored.
    """

    def __init__(self, series: TiffPageSeries, *, where: Path) -> None:
        """Raises SlideError where the series is no bright-field image this package reads."""
        self._where = where
        pages = [_whole_page(page, where) for page in series.pages]
        first = pages[0]
        self._planes = [_plane(page) for page in pages]
        self.width, self.height = int(first.imagewidth), int(first.imagelength)
        self.chunk_size = (first.tilewidth, first.tilelength) if first.is_tiled else (self.width, first.rowsperstrip)
        self._photometric = int(first.photometric)
        self._palette = None if first.colormap is None else np.asarray(first.colormap)
        self.channels = sum(int(page.samplesperpixel) for page in pages)
        self.dtype = first.dtype
        self.is_jpeg = first.compression in _JPEG_COMPRESSIONS and self._photometric in (_RGB, _YCBCR)
        self.is_complete = all(bool((plane.counts > 0).all()) for plane in self._planes)
        self._check(series, first)
        self._mapped = self._map(pages)

    def _check(self, series: TiffPageSeries, first: TiffPage) -> None:
        axes = "".join(a for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX")
        if axes not in ("YX", "YXS", "SYX", "CYX"):
            raise SlideError(
                f"holds {_count_of_images(series)} images ({series.axes} {series.shape}) instead of one",
                where=self._where,
                fix="Give one bright-field plane: z-stacks and time series are not read",
            )
        if any(len(plane.offsets) < self._columns * self._rows * plane.separate for plane in self._planes):
            raise SlideError(
                f"lists too few tiles for {self.width} x {self.height} px",
                where=self._where,
                fix="The file is damaged or truncated: copy it again from its source",
            )
        if self._photometric == _YCBCR and first.compression not in _JPEG_COMPRESSIONS:
            raise SlideError("stores YCbCr pixels without JPEG compression", where=self._where, fix="Convert it to RGB")
        if self._photometric != _PALETTE:
            check_samples(np.dtype(first.dtype), self.channels, where=self._where)

    def _map(self, pages: list[TiffPage]) -> list[np.ndarray] | None:
        """Every page as a mapped (separate, height, width, samples) array, where segments are huge and plain."""
        if self._segment_bytes < MAPPED_FROM:
            return None
        if all(page.is_memmappable for page in pages):
            return [_map_page(page, self._where) for page in pages]
        if self._segment_bytes > MAX_SEGMENT_BYTES:
            raise SlideError(
                f"is one piece of {self.width} x {self.height} px",
                where=self._where,
                fix="Convert it to a tiled pyramidal TIFF",
            )
        return None

    @property
    def _columns(self) -> int:
        return -(-self.width // int(self.chunk_size[0]))

    @property
    def _rows(self) -> int:
        return -(-self.height // int(self.chunk_size[1]))

    @property
    def _segment_bytes(self) -> int:
        width, height = self.chunk_size
        return int(width) * int(height) * self.channels * np.dtype(self.dtype).itemsize

    @property
    def is_mapped(self) -> bool:
        """Whether ``window`` serves any window directly, without segments."""
        return self._mapped is not None

    def window(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 of a mapped level."""
        assert self._mapped is not None
        parts = [np.moveaxis(m[:, y : y + height, x : x + width], 0, 2) for m in self._mapped]
        return self._rgb(np.concatenate([p.reshape(height, width, -1) for p in parts], axis=2))

    def segment(self, file: RandomAccessFile, row: int, col: int) -> np.ndarray:
        """(h, w, 3) uint8 of one segment; those at the right and lower end may be cut or padded.

        Raises:
            SlideError, and whatever a codec raises on damaged data.
        """
        parts = []
        for plane in self._planes:
            for sample in range(plane.separate):
                part = _decode(plane, file, (sample * self._rows + row) * self._columns + col)
                if part is None:
                    # A segment that was never written: nothing was scanned there.
                    return np.full((self.chunk_size[1], self.chunk_size[0], 3), WHITE, np.uint8)
                parts.append(part)
        return self._rgb(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))

    def _rgb(self, samples: np.ndarray) -> np.ndarray:
        if self._palette is not None and self._photometric == _PALETTE:
            # TIFF palettes are (3, n) uint16 with 8-bit values in the high byte.
            return np.ascontiguousarray((self._palette >> 8).astype(np.uint8)[:, samples[..., 0]].transpose(1, 2, 0))
        return rgb_from_samples(
            samples,
            where=self._where,
            cmyk=self._photometric == _SEPARATED,
            inverted=self._photometric == _MINISWHITE,
        )


class TiffPixels:
    """Windows of a pyramid's levels; segments are kept in the process's chunk cache. Thread-safe."""

    def __init__(self, path: Path, levels: list[TiffLevel]) -> None:
        self._path, self._levels = path, levels
        self._file = RandomAccessFile(path)
        self._owner = new_owner()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See ``LevelReader.read``."""
        source = self._levels[level]

        def chunk(row: int, col: int) -> np.ndarray:
            return shared_cache().get((self._owner, level, row, col), lambda: source.segment(self._file, row, col))

        try:
            if source.is_mapped:
                return source.window(x, y, width, height)
            return read_through(source.chunk_size, (x, y, width, height), chunk)
        except SlideError:
            raise
        except Exception as error:
            # Each of the dozens of codecs has an exception class of its own.
            raise damaged(self._path, level, x, y, width, height, error) from None

    def forget(self) -> None:
        """Drop the chunks kept."""
        shared_cache().forget(self._owner)


def _whole_page(page: Any, where: Path) -> TiffPage:
    if page is None:
        raise SlideError("lacks a page its metadata names", where=where, fix="The file is damaged or incomplete")
    whole: TiffPage = page.aspage()
    return whole


def _plane(page: TiffPage) -> _Plane:
    separate = int(page.samplesperpixel) if page.planarconfig == 2 else 1
    offsets = np.asarray(page.dataoffsets, np.int64)
    # Decoder and JPEG tables are looked up now, while tifffile still has the file open.
    _ = page.decode, page.jpegtables
    return _Plane(page, offsets, np.asarray(page.databytecounts, np.int64), separate)


def _decode(plane: _Plane, file: RandomAccessFile, index: int) -> np.ndarray | None:
    """(h, w, samples) of one segment, or None where it is not stored."""
    if index >= len(plane.offsets) or plane.counts[index] == 0 or plane.offsets[index] == 0:
        return None
    count = int(plane.counts[index])
    data = file.read(int(plane.offsets[index]), count)
    if len(data) < count:
        raise ValueError(f"the file ends {count - len(data)} bytes too early")
    options = {} if plane.page.jpegtables is None else {"jpegtables": plane.page.jpegtables}
    decoded = plane.page.decode(data, index, **options)[0]
    return None if decoded is None else np.asarray(decoded)[0]


def _map_page(page: TiffPage, where: Path) -> np.ndarray:
    assert page.dtype is not None
    separate = int(page.samplesperpixel) if page.planarconfig == 2 else 1
    samples = int(page.samplesperpixel) // separate
    shape = (separate, int(page.imagelength), int(page.imagewidth), samples)
    dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    try:
        return np.memmap(where, dtype, mode="r", offset=page.dataoffsets[0], shape=shape)
    except ValueError:
        raise SlideError(
            "ends before its pixels do", where=where, fix="The file is truncated: copy it again from its source"
        ) from None


def _count_of_images(series: TiffPageSeries) -> int:
    sizes = [n for a, n in zip(series.axes, series.shape, strict=True) if a not in "YXS"]
    return int(np.prod(sizes))
