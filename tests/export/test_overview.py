from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from PIL import Image

from wsi_pipeline.export.overview import write_overview
from wsi_pipeline.export.table import object_table
from wsi_pipeline.geometry import Affine2D, PixelGrid, Region

SIDE = 48_000
GRID = PixelGrid(SIDE, SIDE, Affine2D(), 0.5)
RED = (200, 0, 0)


class WhiteSlide:
    info = SimpleNamespace(bounds=Region(0, 0, SIDE, SIDE))

    def read_grid(self, to_level0: Affine2D, size: tuple[int, int]) -> np.ndarray:
        return np.full((size[1], size[0], 3), 255, np.uint8)


def table(*geometry: shapely.Geometry, name: str = "Tumor") -> pa.Table:
    shapes = np.array(geometry, object)
    return object_table(shapes, id=[str(n) for n in range(len(shapes))], **{"class": name})


def picture(tmp_path: Path, tables: Any) -> np.ndarray:
    slide: Any = WhiteSlide()
    write_overview(tmp_path / "overview.png", slide, tables, {"Tumor": RED}, GRID)
    return np.asarray(Image.open(tmp_path / "overview.png")).astype(int)


@pytest.mark.parametrize("side", [1, 12, 30])
def test_objects_smaller_than_a_pixel_are_seen(tmp_path: Path, side: float) -> None:
    image = picture(tmp_path, lambda: [table(shapely.box(24_000, 12_000, 24_000 + side, 12_000 + side))])
    assert image[300, 600, 0] > image[300, 600, 1] + 50


def test_large_objects_are_outlined_and_not_filled(tmp_path: Path) -> None:
    whole = picture(tmp_path, lambda: [table(shapely.box(8000, 8000, 40_000, 40_000))])[:, :1200]
    assert whole[600, 200, 0] > whole[600, 200, 1] + 50
    assert tuple(whole[700, 300]) == (255, 255, 255)


def test_an_object_without_an_outline_is_left_out(tmp_path: Path) -> None:
    image = picture(tmp_path, lambda: [table(shapely.Polygon())])
    assert (image == 255).all()


def test_tables_are_looked_at_one_by_one(tmp_path: Path) -> None:
    alive = most = 0

    class Counted:
        def __init__(self, inner: pa.Table) -> None:
            nonlocal alive, most
            self.inner = inner
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

        def column(self, name: str) -> Any:
            return self.inner.column(name)

    def tables() -> Iterator[Any]:
        for n in range(50):
            yield Counted(table(shapely.box(n * 100, 0, n * 100 + 50, 50)))

    picture(tmp_path, tables)
    assert most <= 2
