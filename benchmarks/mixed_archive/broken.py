"""Slides that cannot be done, each for another reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import tifffile
import zarr

from benchmarks.mixed_archive.whole import pixels, write_jpeg_tiff, write_ome_tiff, write_tiff


@dataclass(frozen=True, slots=True)
class Broken:
    """One way to be broken.

    Attributes:
        name: of the file or folder.
        write: makes it.
        reason: regular expression of why it fails.
        mask: (width, height) px of a tissue mask that a manifest gives to it.
    """

    name: str
    write: Callable[[Path], object]
    reason: str
    mask: tuple[int, int] | None = None


def _cut(path: Path) -> None:
    whole = (resources.files("wsi_pipeline") / "data" / "CMU-1-Small-Region.svs").read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])


def _spoil_tile(path: Path) -> None:
    write_jpeg_tiff(path, pixels(1))
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[1], tiff.pages[0].databytecounts[1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x55" * count)


def _claim_too_much(path: Path) -> None:
    write_tiff(path, pixels(2))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages.first.tags[tag].overwrite(2_000_000)


BROKEN = (
    Broken("absurd.ome.tif", lambda path: write_ome_tiff(path, pixels(4), mpp=1000), r"out of 0\.05 … 20"),
    Broken("alone.mrxs", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" * 99), "its data is missing"),
    Broken("bare.zarr", lambda path: zarr.open_group(path, mode="w"), "without a multiscale image"),
    Broken("empty.tif", lambda path: path.touch(), "is an empty file"),
    Broken("folder.svs", lambda path: path.mkdir(), "is a folder and no slide"),
    Broken("gone.svs", lambda path: path.symlink_to("moved.svs"), "no such file"),
    Broken("huge.tif", _claim_too_much, "too few tiles for 2000000 x 2000000 px"),
    Broken(
        "misfit.tif", lambda path: write_tiff(path, pixels(3)), "100 x 300 px has other proportions", mask=(100, 300)
    ),
    Broken("silent.tif", lambda path: write_tiff(path, pixels(5), mpp=None), "does not state its µm per pixel"),
    Broken("spoiled.tif", _spoil_tile, "cannot read the region .*damaged there"),
    Broken("text.svs", lambda path: path.write_text("patient,slide\n1,2\n"), "is no slide format known here"),
    Broken("truncated.svs", _cut, "truncated: copy it again"),
)
