"""Slides that can be done, in many formats, cut from the slide that ships with the package."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image

from wsi_pipeline.cli.demo import ROI

WIDTH, HEIGHT = 400, 280
"""Of all slides, px."""
MPP = 0.499

Write = Callable[[Path, np.ndarray], None]

EMPTY = "blank"
"""The kind on which there is nothing to find."""

SILENT = ("photo", "picture")
"""Kinds that cannot state their µm per pixel."""


def pixels(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(height, width, 3) uint8: a piece of tissue, another one for every number."""
    tissue = _tissue()
    random = np.random.default_rng(number)
    top, left = random.integers(0, tissue.shape[0] - height), random.integers(0, tissue.shape[1] - width)
    return np.ascontiguousarray(tissue[top : top + height, left : left + width])


@cache
def _tissue() -> np.ndarray:
    """The part that ``demo`` shows; others hold no nuclei."""
    left, top, width, height = map(int, ROI)
    path = resources.files("wsi_pipeline") / "data" / "CMU-1-Small-Region.svs"
    return tifffile.imread(str(path), series=0)[top : top + height, left : left + width]


def write_tiff(path: Path, image: np.ndarray, *, mpp: float | None = MPP, **options: Any) -> None:
    """A plain tiled TIFF with its pixel size in the resolution tags."""
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tiled = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, image, **tiled | options)


def write_ome_tiff(path: Path, image: np.ndarray, *, mpp: float = MPP) -> None:
    """A pyramid of two levels, the lower one in a sub-IFD."""
    size = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(image, subifds=1, metadata={"axes": "YXS"} | size, **options)
        file.write(image[::2, ::2], subfiletype=1, **options)


def write_zarr(path: Path, image: np.ndarray) -> None:
    """OME-Zarr 0.5 with two levels."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    datasets: list[Any] = []
    for level, shrink in enumerate((1, 2)):
        data = image[::shrink, ::shrink].transpose(2, 0, 1)
        array = group.create_array(str(level), shape=data.shape, chunks=(1, 128, 128), dtype=data.dtype)
        array[...] = data
        scale = [1.0, MPP * shrink, MPP * shrink]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes: list[Any] = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def _write_image(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path)


def _write_strips(path: Path, image: np.ndarray) -> None:
    write_tiff(path, image, tile=None, rowsperstrip=64, compression="lzw")


def _write_big(path: Path, image: np.ndarray) -> None:
    write_tiff(path, image, bigtiff=True)


def write_jpeg_tiff(path: Path, image: np.ndarray) -> None:
    """A tiled TIFF of JPEG data, as scanners write them."""
    write_tiff(path, image, compression="jpeg")


def _write_sixteen_bits(path: Path, image: np.ndarray) -> None:
    write_tiff(path, image.astype(np.uint16) * 257)


def _write_pyramid(path: Path, image: np.ndarray) -> None:
    size = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(image, **options | size)
        file.write(image[::4, ::4], subfiletype=1, **options)


def _write_blank(path: Path, image: np.ndarray) -> None:
    write_tiff(path, np.full((200, 200, 3), 250, np.uint8))


KINDS: dict[str, tuple[str, Write]] = {
    "plain": (".tif", write_tiff),
    "jpeg": (".tiff", write_jpeg_tiff),
    "strips": (".tif", _write_strips),
    "pyramid": (".tif", _write_pyramid),
    "ome": (".ome.tif", write_ome_tiff),
    "zarr": (".ome.zarr", write_zarr),
    "big": (".btf", _write_big),
    "deep": (".tif", _write_sixteen_bits),
    "photo": (".jpg", _write_image),
    "picture": (".png", _write_image),
    EMPTY: (".tif", _write_blank),
}
"""Suffix and writer of every kind."""
