"""The picture of a slide's result: the whole slide, and beside it the richest spot at working resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from PIL import Image, ImageDraw

from wsi_pipeline.files import beside
from wsi_pipeline.geometry import Affine2D, PixelGrid, Region

if TYPE_CHECKING:
    import pyarrow as pa

    from wsi_pipeline.slides.slide import Slide

WHOLE_SIDE = 1200
"""Longest side of the whole-slide panel, px."""
DETAIL_SIDE = 600
"""Side of the detail panel before it is enlarged to the height of the other, px of the working resolution."""
_OVERSAMPLING = 2
"""Pillow draws lines without anti-aliasing, so panels are drawn larger and reduced."""
_CELLS = 64
"""The densest spot is looked for on a histogram of at most this many cells a side."""
_UNCLASSIFIED = (0, 0, 200)
_DOT = 2.0
"""Outlines shorter and narrower than this, px of the enlarged panel, would be nothing but a dot."""

Rgb = tuple[int, int, int]
Tables = Callable[[], "Iterable[pa.RecordBatch | pa.Table]"]


def write_overview(
    path: Path, slide: Slide, tables: Tables, colors: Mapping[str, Rgb], grid: PixelGrid, area: Region | None = None
) -> None:
    """Draw the outlines of every object on the slide.

    Args:
        path: PNG file to write.
        slide: the slide.
        tables: gives the object table (``OBJECT_SCHEMA``) anew at each call, so that no object is kept.
        colors: class name → colour.
        grid: the working grid; the detail is shown at its resolution.
        area: level-0 px; the part to show as the whole, by default the slide's bounds.

    Raises:
        OutputError: the file cannot be written.
    """
    area = area or slide.info.bounds
    scale = max(area.width, area.height) / WHOLE_SIDE
    # an enlarged slide needs stronger lines, as the enlarged detail gets
    whole = _Panel.of(slide, area, (scale, scale), line=1 if scale >= 1 else 2)
    density = _Density(area)
    for table in tables():
        whole.draw(table, colors)
        density.add(table)
    panels = [whole.finish()]
    spot = density.richest((DETAIL_SIDE * grid.to_level0.sx, DETAIL_SIDE * grid.to_level0.sy))
    if spot is not None:
        detail = _Panel.of(slide, spot, (grid.to_level0.sx, grid.to_level0.sy), line=1)
        for table in tables():
            detail.draw(table, colors)
        whole.frame(spot)
        side = panels[0].height
        panels = [whole.finish(), detail.finish().resize((side, side), Image.Resampling.LANCZOS)]
    with beside(path) as partial:
        _side_by_side(panels).save(partial, format="PNG")


@dataclass
class _Panel:
    """An enlarged image and the affine from level-0 px to it.

    Attributes:
        image: the slide, and outlines once they are drawn.
        from_level0: maps level-0 px to px of the image.
        line: width of outlines, px.
        dots: (h, w) uint16, where objects too small for an outline lie: 1 + index into ``dot_colors``.
    """

    image: Image.Image
    from_level0: Affine2D
    line: int
    dots: np.ndarray
    dot_colors: list[Rgb] = field(default_factory=list)

    @classmethod
    def of(cls, slide: Slide, area: Region, scale: tuple[float, float], *, line: int) -> _Panel:
        size = max(1, round(area.width / scale[0])), max(1, round(area.height / scale[1]))
        to_level0 = Affine2D(area.width / size[0], area.height / size[1], area.x, area.y)
        image = Image.fromarray(slide.read_grid(to_level0, size))
        enlarged = image.resize((size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING), Image.Resampling.BICUBIC)
        magnify = Affine2D(_OVERSAMPLING, _OVERSAMPLING)
        dots = np.zeros(enlarged.size[::-1], np.uint16)
        return cls(enlarged, magnify.after(to_level0.inverse()), line * _OVERSAMPLING + 1, dots)

    def draw(self, table: pa.RecordBatch | pa.Table, colors: Mapping[str, Rgb]) -> None:
        """Outline the objects of a table; what is about as small as a pixel becomes a dot."""
        geometries = shapely.from_wkb(np.asarray(table.column("geometry").to_pylist(), object))
        bounds = self.from_level0.apply(shapely.bounds(geometries).reshape(-1, 2, 2)).reshape(-1, 4)
        width, height = self.image.size
        x0, y0, x1, y1 = bounds.T  # NaN, and so never seen, where nothing is left of an outline
        seen = (x1 >= 0) & (y1 >= 0) & (x0 <= width) & (y0 <= height)
        small = (np.maximum(x1 - x0, y1 - y0) < _DOT) | (shapely.get_dimensions(geometries) < 2)
        names = np.asarray(table.column("class").to_pylist(), object)
        self._dot(bounds[seen & small], [colors.get(name, _UNCLASSIFIED) for name in names[seen & small]])
        canvas = ImageDraw.Draw(self.image)
        large = seen & ~small
        for shape, name in zip(geometries[large], names[large], strict=True):
            color = colors.get(name, _UNCLASSIFIED)
            for ring in shapely.get_rings(shape):
                points = self.from_level0.apply(shapely.get_coordinates(ring))
                canvas.line(points.ravel().tolist(), fill=color, width=self.line)

    def _dot(self, bounds: np.ndarray, colors: list[Rgb]) -> None:
        """Mark 3 x 3 px about the middles of boxes (N, 4); painted at the end, all at once."""
        for color in dict.fromkeys(colors):
            if color not in self.dot_colors:
                self.dot_colors.append(color)
        value = np.array([1 + self.dot_colors.index(color) for color in colors], np.uint16)
        x, y = ((bounds[:, :2] + bounds[:, 2:]) / 2).astype(np.int64).T
        height, width = self.dots.shape
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                self.dots[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)] = value

    def frame(self, area: Region) -> None:
        corners = self.from_level0.apply(np.array(area.bounds).reshape(2, 2))
        ImageDraw.Draw(self.image).rectangle(corners.ravel().tolist(), outline=(0, 0, 0), width=2 * _OVERSAMPLING)

    def finish(self) -> Image.Image:
        width, height = self.image.size
        if self.dot_colors:
            pixels = np.array(self.image)
            marked = self.dots > 0
            pixels[marked] = np.array(self.dot_colors, np.uint8)[self.dots[marked] - 1]
            self.image = Image.fromarray(pixels)
        return self.image.resize((width // _OVERSAMPLING, height // _OVERSAMPLING), Image.Resampling.LANCZOS)


@dataclass
class _Density:
    """How many objects lie where."""

    area: Region
    counts: np.ndarray = field(default_factory=lambda: np.zeros((_CELLS, _CELLS), np.int64))

    def add(self, table: Any) -> None:
        center = shapely.centroid(shapely.from_wkb(np.asarray(table.column("geometry").to_pylist(), object)))
        center = center[~shapely.is_empty(center)]
        x = (shapely.get_x(center) - self.area.x) / self.area.width * _CELLS
        y = (shapely.get_y(center) - self.area.y) / self.area.height * _CELLS
        inside = (x >= 0) & (x < _CELLS) & (y >= 0) & (y < _CELLS)
        np.add.at(self.counts, (y[inside].astype(int), x[inside].astype(int)), 1)

    def richest(self, size: tuple[float, float]) -> Region | None:
        """The window of ``size`` level-0 px in the area that holds most objects; None where a detail adds nothing."""
        width, height = size
        if not self.counts.any() or width >= self.area.width or height >= self.area.height:
            return None
        across = max(1, round(width / self.area.width * _CELLS))
        down = max(1, round(height / self.area.height * _CELLS))
        windows = np.lib.stride_tricks.sliding_window_view(self.counts, (down, across)).sum(axis=(2, 3))
        row, col = np.unravel_index(int(windows.argmax()), windows.shape)
        x = min(col / _CELLS * self.area.width, self.area.width - width)
        y = min(row / _CELLS * self.area.height, self.area.height - height)
        return Region(self.area.x + x, self.area.y + y, width, height)


def _side_by_side(panels: list[Image.Image], gap: int = 12) -> Image.Image:
    width = sum(p.width for p in panels) + gap * (len(panels) - 1)
    sheet = Image.new("RGB", (width, max(p.height for p in panels)), "white")
    x = 0
    for panel in panels:
        sheet.paste(panel, (x, 0))
        x += panel.width + gap
    return sheet
