"""The label pyramid as one OME-TIFF, for programs that do not read OME-Zarr.

Two images, ``instance`` and ``class``, each a tiled pyramid with its coarser levels in SubIFDs. The pixel size and the
position of the first pixel (its centre, from the centre of the slide's level-0 pixel (0, 0)) are in the OME metadata;
a program that ignores the position, as QuPath does, shows the mask at the top-left corner of the slide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsi_pipeline.files import beside
from wsi_pipeline.stitching.ngff import LabelName, MaskPyramid


def write_ome_tiff(
    pyramid: MaskPyramid, path: Path, *, labels: Sequence[LabelName] = ("instance", "class"), workers: int = 1
) -> Path:
    """Write label images as a pyramidal OME-TIFF (BigTIFF, deflate), tile by tile.

    Args:
        pyramid: with all its levels written.
        path: of the ``.ome.tif`` file; it appears when it is whole.
        labels: which label images, in this order.
        workers: threads that compress.

    Returns:
        ``path``.

    Raises:
        OutputError: the file cannot be written.
    """
    with beside(path) as partial, tifffile.TiffWriter(partial, bigtiff=True, ome=True) as tiff:
        for name in labels:
            for level in range(pyramid.n_levels):
                _write_level(tiff, pyramid, name, level, workers)
    return path


def _write_level(tiff: tifffile.TiffWriter, pyramid: MaskPyramid, name: LabelName, level: int, workers: int) -> None:
    width, height = pyramid.size(level)
    per_cm = [1e4 / (side * (1 << level)) for side in pyramid.pixel_size]
    tiff.write(
        _tiles(pyramid, name, level),
        shape=(height, width),
        dtype=np.uint32 if name == "instance" else pyramid.class_dtype,
        tile=(pyramid.chunk, pyramid.chunk),
        photometric="minisblack",
        compression="zlib",
        resolution=(per_cm[0], per_cm[1]),
        resolutionunit="CENTIMETER",
        maxworkers=workers,
        subifds=pyramid.n_levels - 1 if level == 0 else None,
        subfiletype=1 if level else 0,
        metadata=_ome_metadata(pyramid, name) if level == 0 else None,
    )


def _ome_metadata(pyramid: MaskPyramid, name: LabelName) -> dict[str, Any]:
    (size_x, size_y), (x, y) = pyramid.pixel_size, pyramid.first_centre
    return {
        "axes": "YX",
        "Name": name,
        "PhysicalSizeX": size_x,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": size_y,
        "PhysicalSizeYUnit": "µm",
        "Plane": {"PositionX": [x], "PositionXUnit": ["µm"], "PositionY": [y], "PositionYUnit": ["µm"]},
    }


def _tiles(pyramid: MaskPyramid, name: LabelName, level: int) -> Iterator[np.ndarray]:
    """Every tile of a level, row-major; those at the right and bottom are filled up with 0."""
    width, height = pyramid.size(level)
    side = pyramid.chunk
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield pyramid.read_labels(name, x, y, x + side, y + side, level)
