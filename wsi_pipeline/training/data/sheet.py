"""A contact sheet: samples with their objects outlined, and what augmentation makes of them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from wsi_pipeline.files import beside
from wsi_pipeline.spread import spread
from wsi_pipeline.training.data.augment import AugmentedPairs
from wsi_pipeline.training.data.samples import Picture, SampleInfo, SampleSource

CAPTION_HEIGHT = 14
GAP = 6
GOLDEN = 0.618034
"""Hues this far apart stay distinct however many there are."""
UNKNOWN_SHADE = 0.5
"""Brightness of px about which nothing is known."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """How a contact sheet is laid out.

    Attributes:
        samples: how many samples it shows at most, evenly from all.
        columns: pictures in a row, when there are no variants.
        side: longest side of a picture, px.
    """

    samples: int = 24
    columns: int = 6
    side: int = 240

    def draw(self, source: SampleSource, variants: Sequence[AugmentedPairs] = ()) -> Image.Image:
        """A row for each sample with its variants, high and low patch side by side; rows of samples without them."""
        cells = []
        for number in self._chosen(len(source)):
            info, sample = source.infos[number], source[number]
            cells.append(self._cell(sample.high, _caption(info)))
            for variant in variants:
                pair = variant[number]
                cells.append(self._cell(pair.high, "high"))
                if pair.low is not None:
                    cells.append(self._cell(pair.low, f"low, c = {pair.context_factor:g}"))
        return self._arranged(cells, 1 + 2 * len(variants) if variants else self.columns)

    def _chosen(self, count: int) -> list[int]:
        return spread(range(count), self.samples)

    def _cell(self, picture: Picture, caption: str) -> Image.Image:
        cell = Image.new("RGB", (self.side, self.side + CAPTION_HEIGHT), "white")
        cell.paste(outlined(picture, self.side), (0, CAPTION_HEIGHT))
        ImageDraw.Draw(cell).text((1, 1), caption, fill="black")
        return cell

    def _arranged(self, cells: Sequence[Image.Image], columns: int) -> Image.Image:
        across, down = (side + GAP for side in cells[0].size)
        rows = -(-len(cells) // columns)
        sheet = Image.new("RGB", (min(columns, len(cells)) * across + GAP, rows * down + GAP), "white")
        for number, cell in enumerate(cells):
            sheet.paste(cell, (GAP + number % columns * across, GAP + number // columns * down))
        return sheet


def write_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a PNG.

    Raises:
        OutputError: it cannot be written.
    """
    with beside(path) as partial:
        sheet.save(partial, format="PNG")


def outlined(picture: Picture, side: int) -> Image.Image:
    """A picture fitted into ``side`` px, every object outlined in a colour of its own, what is unknown darkened."""
    height, width = picture.labels.shape
    share = side / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    pixels = np.array(Image.fromarray(picture.image).resize(size, Image.Resampling.BICUBIC))
    labels, known = (_nearest(raster, size) for raster in (picture.labels, picture.known))
    pixels[~known] = (pixels[~known] * UNKNOWN_SHADE).astype(np.uint8)
    # of neighbours each gets its own outline, which is why it lies inside
    edge = find_boundaries(labels, mode="inner") & (labels > 0)
    colours = np.array([_colour(number) for number in range(int(labels.max()) + 1)], np.uint8)
    pixels[edge] = colours[labels[edge]]
    return Image.fromarray(pixels)


def _nearest(raster: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    rows = (np.arange(height) + 0.5) * raster.shape[0] / height
    columns = (np.arange(width) + 0.5) * raster.shape[1] / width
    return raster[np.ix_(rows.astype(int), columns.astype(int))]


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 1.0, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _caption(info: SampleInfo) -> str:
    return " ".join(part for part in (info.split, ", ".join(info.class_names), info.group) if part)
