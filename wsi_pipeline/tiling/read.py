"""Pixels of patch pairs, both patches read from the slide itself.

Neighbouring patches share pixels, low ones most of them. Patches that lie on one pixel raster are therefore read as
one piece and sliced, as long as the piece is not much bigger than the patches together. A slide gives a pixel the
same value whatever raster it is asked for in, so the result is, to the last bit, that of single reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from wsi_pipeline.geometry import Affine2D
from wsi_pipeline.models.roles import PairImages
from wsi_pipeline.tiling.plan import PatchPair

T = TypeVar("T")

PIECE_SHARE = 1.25
"""A piece may hold this many times the px of its patches: beyond, its gaps cost more than the overlaps save."""

PIECE_PX = 2**25
"""Largest piece, px; 100 MB of RGB, so that sharing never needs much more memory than the patches."""

RASTER_TOLERANCE = 1e-6
"""Px by which two patches may miss a common raster; composed affines differ by rounding only, far below this."""


class GridReader(Protocol):
    """The one method of a slide that reading pairs needs."""

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        """(height, width, 3) uint8 RGB of the raster of ``size = (width, height)`` px lying at ``to_level0``."""
        ...


def read_pairs(slide: GridReader, pairs: Sequence[PatchPair], *, low: bool) -> PairImages:
    """Read the pixels of B patch pairs of one size and context factor.

    Args:
        slide: where to read; each patch comes from the level that suits its resolution, white outside.
        pairs: B pairs; neighbours on one raster share their reads.
        low: whether to read the low patches too.

    Returns:
        (B, S, S, 3) uint8 RGB high patches, and low patches of the same shape when asked for.

    Raises:
        ValueError: no pairs, or pairs of different sizes or context factors.
    """
    if len({(pair.size, pair.context_factor) for pair in pairs}) != 1:
        raise ValueError("read_pairs takes at least one pair, all of one size and context factor")
    size = pairs[0].size
    return PairImages(
        high=_read_patches(slide, [pair.high for pair in pairs], size),
        low=_read_patches(slide, [pair.low for pair in pairs], size) if low else None,
        context_factor=pairs[0].context_factor,
    )


def _read_patches(slide: GridReader, affines: Sequence[Affine2D], size: int) -> np.ndarray:
    images = np.empty((len(affines), size, size, 3), np.uint8)
    for anchor, rows, xy in _rasters(affines):
        _read_pieces(slide, anchor, rows, xy, images)
    return images


def _rasters(affines: Sequence[Affine2D]) -> list[tuple[Affine2D, np.ndarray, np.ndarray]]:
    """Group patches by raster: its first affine, the patches' rows (n,), and their px offsets (n, 2) from it."""
    groups: list[tuple[Affine2D, list[int], list[tuple[int, int]]]] = []
    for row, affine in enumerate(affines):
        for anchor, rows, offsets in groups:
            offset = _offset(anchor, affine)
            if offset is not None:
                rows.append(row)
                offsets.append(offset)
                break
        else:
            groups.append((affine, [row], [(0, 0)]))
    return [(anchor, np.array(rows), np.array(offsets)) for anchor, rows, offsets in groups]


def _offset(anchor: Affine2D, other: Affine2D) -> tuple[int, int] | None:
    if (anchor.sx, anchor.sy) != (other.sx, other.sy):
        return None
    x, y = (other.tx - anchor.tx) / anchor.sx, (other.ty - anchor.ty) / anchor.sy
    if max(abs(x - round(x)), abs(y - round(y))) > RASTER_TOLERANCE:
        return None
    return round(x), round(y)


def _read_pieces(slide: GridReader, anchor: Affine2D, rows: np.ndarray, xy: np.ndarray, images: np.ndarray) -> None:
    """Fill ``images[rows]`` from one read, or from two halves where one piece would be mostly gaps."""
    size = images.shape[1]
    corner = xy.min(axis=0)
    width, height = (int(v) for v in xy.max(axis=0) - corner + size)
    if len(rows) > 1 and width * height > min(PIECE_SHARE * len(rows) * size**2, PIECE_PX):
        order = np.argsort(xy[:, 0 if width > height else 1], kind="stable")
        for half in np.array_split(order, 2):
            _read_pieces(slide, anchor, rows[half], xy[half], images)
        return
    piece = slide.read_grid(anchor.shifted(float(corner[0]), float(corner[1])), (width, height))
    for row, (x, y) in zip(rows, xy - corner, strict=True):
        images[row] = piece[y : y + size, x : x + size]


def prefetch(items: Iterable[T], depth: int = 1) -> Generator[T, None, None]:
    """Iterate in a background thread, ``depth`` items ahead, so that reading overlaps inference.

    An error in ``items`` is raised at its place in the order. Closing the generator, or an error in the consumer's
    loop body once it is collected, ends the thread after the item under way and closes ``items``.
    """
    if depth < 1:
        raise ValueError(f"depth {depth} must be at least 1")
    iterator = iter(items)
    end: Any = object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    pending: deque[Future[Any]] = deque()
    try:
        pending.extend(pool.submit(next, iterator, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
