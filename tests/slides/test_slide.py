"""The one class for every slide, on a reader that is nothing but arrays."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Affine2D, Region, Resolution
from wsi_pipeline.slides import slide as slide_module
from wsi_pipeline.slides.base import LevelReader, ReaderFacts
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.slides.slide import Slide, open_slide, slide_handle

SIZES = ((1000, 701), (250, 175), (62, 43))
BOUNDS = Region(203, 101, 500, 400)


class ArrayReader:
    """Levels made of a formula: red and green are level px, blue is the level."""

    def __init__(self, bounds: Region | None = BOUNDS) -> None:
        self.facts = ReaderFacts("fake", "fake", SIZES, bounds=bounds)
        self.reads: list[tuple[int, int, int, int, int]] = []
        self.closed = False

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        self.reads.append((level, x, y, width, height))
        image = np.empty((height, width, 3), np.uint8)
        image[..., 0] = np.arange(x, x + width) % 251
        image[..., 1] = (np.arange(y, y + height) % 241)[:, None]
        image[..., 2] = level
        return image

    def associated_image(self, name: str) -> np.ndarray:
        return np.zeros((3, 4, 3), np.uint8)

    def close(self) -> None:
        self.closed = True


def slide_of(reader: ArrayReader, mpp: tuple[float, float] = (0.25, 0.25)) -> Slide:
    width, height = SIZES[0]
    info = SlideInfo(
        path="fake",
        name="fake",
        width=width,
        height=height,
        resolution=Resolution(*mpp),
        mpp_source="property",
        bounds=reader.facts.bounds or Region(0, 0, width, height),
        has_bounds=reader.facts.bounds is not None,
        level_sizes=SIZES,
        reader="fake",
        vendor="fake",
        fingerprint="0",
        associated=("label",),
    )
    return Slide(info, partial(ArrayReader, reader.facts.bounds), reader=reader)


@pytest.mark.parametrize(
    ("scale", "level"), [(0.5, 0), (1, 0), (3.8, 0), (3.95, 1), (4, 1), (15, 1), (16.2, 2), (900, 2)]
)
def test_level_is_the_coarsest_that_keeps_the_detail(scale: float, level: int) -> None:
    assert slide_of(ArrayReader()).level_for(scale) == level


@given(level=st.integers(0, 2), x=st.integers(-40, 300), y=st.integers(-40, 300))
def test_reading_at_a_levels_own_scale_is_slicing(level: int, x: int, y: int) -> None:
    slide = slide_of(ArrayReader())
    sx, sy = slide.level_scale(level)
    got = slide.read_grid(Affine2D(sx, sy, x * sx, y * sy), (70, 60))
    width, height = SIZES[level]
    expected = np.full((460, 460, 3), 255, np.uint8)[:60, :70]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + 70, width), min(y + 60, height)
    if x0 < x1 and y0 < y1:
        expected[y0 - y : y1 - y, x0 - x : x1 - x] = ArrayReader().read(level, x0, y0, x1 - x0, y1 - y0)
    assert np.array_equal(got, expected)


def test_level_scale_is_the_exact_ratio_of_sizes() -> None:
    assert slide_of(ArrayReader()).level_scale(1) == (1000 / 250, 701 / 175)


@settings(deadline=None)
@given(
    mpp=st.floats(0.1, 9),
    x=st.integers(0, 400),
    y=st.integers(0, 300),
    width=st.integers(1, 500),
    height=st.integers(1, 400),
)
def test_working_grid_covers_its_region_with_less_than_a_pixel_to_spare(
    mpp: float, x: int, y: int, width: int, height: int
) -> None:
    region = Region(x, y, width, height)
    grid = slide_of(ArrayReader()).working_grid(mpp, region)
    x0, y0, x1, y1 = grid.region.bounds
    sx, sy = grid.to_level0.sx, grid.to_level0.sy
    slack = 1e-4 * max(sx, sy)
    assert x - sx < x0 <= x + slack
    assert y - sy < y0 <= y + slack
    assert x + width - slack <= x1 < x + width + sx + slack
    assert y + height - slack <= y1 < y + height + sy + slack
    assert abs(grid.mpp / mpp - 1) <= 0.051


@pytest.mark.parametrize(("mpp", "level"), [(0.25, 0), (0.26, 0), (0.24, 0), (1.0, 1), (0.97, 1), (1.04, 1), (4.1, 2)])
def test_working_grid_close_to_a_level_is_made_of_its_pixels(mpp: float, level: int) -> None:
    reader = ArrayReader()
    slide = slide_of(reader)
    grid = slide.working_grid(mpp)
    sx, sy = slide.level_scale(level)
    assert (grid.to_level0.sx, grid.to_level0.sy) == (sx, sy)
    assert grid.to_level0.tx <= BOUNDS.x < grid.to_level0.tx + sx
    assert grid.mpp == pytest.approx(0.25 * np.sqrt(sx * sy))
    image = slide.read_grid(grid.to_level0, (grid.width, grid.height))
    left, top = round(grid.to_level0.tx / sx), round(grid.to_level0.ty / sy)
    assert np.array_equal(image, ArrayReader().read(level, left, top, grid.width, grid.height))


@pytest.mark.parametrize("mpp", [0.1, 0.2, 0.3, 0.5, 2.0])
def test_working_grid_far_from_every_level_keeps_the_mpp_asked_for(mpp: float) -> None:
    grid = slide_of(ArrayReader()).working_grid(mpp)
    assert grid.mpp == mpp
    assert grid.to_level0 == Affine2D(mpp / 0.25, mpp / 0.25, BOUNDS.x, BOUNDS.y)


def test_working_grid_of_oblong_pixels_snaps_only_if_both_sides_fit() -> None:
    slide = slide_of(ArrayReader(), (0.25, 0.30))
    grid = slide.working_grid(0.27)
    assert grid.mpp == 0.27
    assert (grid.to_level0.sx, grid.to_level0.sy) == (0.27 / 0.25, 0.27 / 0.30)


def test_bounds_limit_grid_and_thumbnail() -> None:
    slide = slide_of(ArrayReader())
    thumbnail = slide.thumbnail(50)
    assert thumbnail.image.shape == (40, 50, 3)
    assert thumbnail.grid.to_level0.tx == BOUNDS.x
    assert thumbnail.grid.region.width == pytest.approx(BOUNDS.width)


def test_slide_without_bounds_is_its_own_bounds() -> None:
    slide = slide_of(ArrayReader(None))
    assert slide.working_grid(0.25).region == Region(0, 0, 1000, 701)


def test_thumbnail_is_never_enlarged() -> None:
    assert slide_of(ArrayReader()).thumbnail(5000).image.shape == (400, 500, 3)


def test_read_gives_the_grid_that_it_read() -> None:
    patch = slide_of(ArrayReader()).read(Region(100, 100, 64, 32), 0.5)
    assert patch.image.shape == (16, 32, 3)
    assert patch.grid.to_level0 == Affine2D(2, 2, 100, 100)


def test_low_resolution_is_read_from_a_coarse_level() -> None:
    reader = ArrayReader()
    slide_of(reader).read(Region(0, 0, 1000, 701), 4.2)
    assert {read[0] for read in reader.reads} == {2}


def test_closed_slide_opens_again_when_read() -> None:
    reader = ArrayReader()
    with slide_of(reader) as slide:
        before = slide.read_grid(Affine2D(), (20, 20))
    assert reader.closed
    assert np.array_equal(slide.read_grid(Affine2D(), (20, 20)), before)


def test_slide_of_other_size_at_reopening_is_an_error() -> None:
    slide = slide_of(ArrayReader())
    slide.info = SlideInfo(
        **{name: getattr(slide.info, name) for name in slide.info.__slots__} | {"level_sizes": SIZES[:1]}
    )
    slide.close()
    with pytest.raises(SlideError, match="changed since it was opened"):
        slide.read_grid(Affine2D(), (4, 4))


def test_unknown_associated_image_is_told_with_those_there_are() -> None:
    with pytest.raises(SlideError, match=r"has no associated image macro\. It has: label"):
        slide_of(ArrayReader()).associated_image("macro")


def test_pickled_slide_opens_lazily_and_reads_the_same(cmu: Path) -> None:
    slide = open_slide(cmu, mpp=0.5)
    copy = pickle.loads(pickle.dumps(slide))  # noqa: S301
    assert copy.info == slide.info
    assert copy._reader is None
    affine = Affine2D(1.7, 1.7, 300.5, 400.25)
    assert np.array_equal(copy.read_grid(affine, (64, 48)), slide.read_grid(affine, (64, 48)))


def test_forked_process_does_not_use_the_parents_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ArrayReader()
    slide = slide_of(reader)
    monkeypatch.setattr(slide_module.os, "getpid", lambda: -1)
    slide.read_grid(Affine2D(), (10, 10))
    assert reader.reads == []


def test_threads_read_what_one_thread_reads(cmu: Path) -> None:
    affines = [Affine2D(s, s, 37.0 * n, 53.0 * n) for n in range(12) for s in (1.0, 1.9)]
    with open_slide(cmu) as slide, open_slide(cmu) as other:
        alone = [other.read_grid(a, (90, 70)) for a in affines]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda a: slide.read_grid(a, (90, 70)), affines * 3))
    assert all(np.array_equal(got, alone[n % len(alone)]) for n, got in enumerate(together))


def test_handle_is_shared_within_the_process_and_follows_a_replaced_file(
    ome_tiff: Callable[..., Path], pixels: Callable[..., np.ndarray]
) -> None:
    path = ome_tiff([pixels(80, 90)])
    first = slide_handle(path)
    assert slide_handle(str(path)) is first
    assert slide_handle(path, 0.3) is not first
    ome_tiff([pixels(81, 90)])
    assert slide_handle(path).info.height == 81


def test_handles_are_bounded(ome_tiff: Callable[..., Path], pixels: Callable[..., np.ndarray]) -> None:
    image = pixels(20, 20)
    paths = [ome_tiff([image], name=f"{n}.ome.tif") for n in range(slide_module.OPEN_SLIDES + 3)]
    handles = [slide_handle(path) for path in paths]
    assert len(slide_module._handles) == slide_module.OPEN_SLIDES
    # One that was put away still reads for whoever holds it.
    assert np.array_equal(handles[0].read_grid(Affine2D(), (20, 20)), image)


def test_fake_reader_is_a_level_reader() -> None:
    reader: LevelReader = ArrayReader()
    assert reader.facts.bounds == BOUNDS
