"""Labels from files: label images, mask pyramids of a run, and QuPath outlines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import shapely

from wsi_pipeline.errors import LabelsError
from wsi_pipeline.evaluation.labels import Frame, Labels
from wsi_pipeline.geometry import Affine2D

PYRAMID_SUFFIX = ".zarr"
OUTLINE_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".geojson.zip")
IMAGE_SUFFIXES = (".png", ".ome.tif", ".ome.tiff", ".tif", ".tiff")

_KINDS = "a label image (.png, .tif), a masks.ome.zarr or QuPath GeoJSON"
_COUNTED = ("annotation", "detection", "cell")
"""QuPath's TMA cores, tiles and root are no segmented objects."""


def read_pair(
    truth: Path, prediction: Path, *, given: Frame | None = None, level: int = 0
) -> tuple[Labels, Labels, Frame]:
    """Truth and prediction on one raster.

    Args:
        truth, prediction: label image, mask pyramid or GeoJSON.
        given: the raster for two GeoJSON files; otherwise that of the file which has one.
        level: of pyramids; each halves the pixels along both sides.

    Raises:
        LabelsError: a file cannot be read, the two differ in size, or neither says how large the image is.
        GeoJSONError: a feature cannot be read.
        OutputError: a folder is no mask pyramid.
    """
    rasters = {path: _read_raster(path, level) for path in (truth, prediction) if not _is_outlines(path)}
    frames = [frame for _, frame in rasters.values()]
    frame = frames[0] if frames else given
    if frame is None:
        raise LabelsError(
            "nothing says how large the image is", where=prediction, fix="Give --width and --height of the image, px"
        )
    sizes = [(frame.width, frame.height) for frame in frames]
    if len(set(sizes)) > 1:
        there, here = ("{} x {} px".format(*size) for size in sizes)
        raise LabelsError(
            f"is {here}, its truth {truth} is {there}", where=prediction, fix="Give both at the same resolution"
        )
    frame = next((frame for frame in frames if frame.mpp), frame)
    first, second = (
        rasters[path][0] if path in rasters else read_outlines(path, frame) for path in (truth, prediction)
    )
    return first, second, frame


def read_outlines(path: Path, frame: Frame) -> Labels:
    """The areas of a QuPath file on a raster; classes that end in ``*`` (tissue, ignored) are left out.

    What lies outside of the raster, or covers no centre of a px, is not among the objects.
    """
    from wsi_pipeline.qupath.classes import is_ignored_class
    from wsi_pipeline.qupath.reader import read_objects
    from wsi_pipeline.rasterise import paint

    _check_exists(path)
    objects = [
        item
        for item in read_objects(path)
        if item.geometry is not None and item.object_type in _COUNTED and not is_ignored_class(item.class_name or "")
    ]
    # small ones on top, so that a nucleus in its gland stays whole
    objects.sort(key=lambda item: -shapely.area(item.geometry))
    image = np.zeros((frame.height, frame.width), np.int32)
    for number, item in enumerate(objects, 1):
        assert item.geometry is not None
        paint(image, item.geometry, _to_raster(frame, item.collection.get("wsi_pipeline")), number)
    return Labels.of(image, {number: item.class_name for number, item in enumerate(objects, 1) if item.class_name})


def _to_raster(frame: Frame, written: Any) -> Affine2D:
    """From QuPath's px; files of this package say themselves whether these are cropped."""
    from wsi_pipeline.qupath.origin import Origin

    origin = written.get("origin") if isinstance(written, dict) else None
    x, y = (0.0, 0.0) if origin in get_args(Origin) and origin == "full" else frame.corner
    return frame.to_level0.inverse().after(Affine2D(tx=x, ty=y))


def _is_outlines(path: Path) -> bool:
    return path.name.lower().endswith(OUTLINE_SUFFIXES)


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise LabelsError("does not exist", where=path, fix="Check the path")


def _read_raster(path: Path, level: int) -> tuple[Labels, Frame]:
    _check_exists(path)
    if path.is_dir():
        return _read_pyramid(path, level)
    image = _read_label_image(path)
    return Labels.of(image), Frame(image.shape[1], image.shape[0])


def _read_label_image(path: Path) -> np.ndarray:
    """(H, W) unsigned or signed integers, none below 0."""
    try:
        image = _decode(path)
    except Exception as error:  # tifffile and Pillow raise what their codecs raise
        raise LabelsError(f"cannot be read ({error})", where=path, fix=f"Give {_KINDS}") from None
    if image.ndim != 2:
        raise LabelsError(
            f"is no label image: it is {image.shape}", where=path, fix="Save one channel of object numbers"
        )
    if image.dtype.kind not in "bui":
        raise LabelsError(f"holds {image.dtype}", where=path, fix="Save object numbers as 8, 16 or 32 bit integers")
    if image.size == 0 or image.min() < 0:
        raise LabelsError("holds labels below 0 or no px", where=path, fix="Number objects from 1, background is 0")
    return image.astype(np.uint8) if image.dtype == bool else image


def _decode(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        return np.squeeze(tifffile.imread(path))
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def _read_pyramid(path: Path, level: int) -> tuple[Labels, Frame]:
    import zarr

    from wsi_pipeline.stitching.ngff import MaskPyramid

    pyramid = MaskPyramid.open(path)
    if level >= pyramid.n_levels:
        raise LabelsError(f"has no level {level}", where=path, fix=f"Give --level 0 to {pyramid.n_levels - 1}")
    width, height = pyramid.size(level)
    instance, class_ = (pyramid.read_labels(name, 0, 0, width, height, level) for name in ("instance", "class"))
    slide: Any = zarr.open_group(path, mode="r").attrs["wsi_pipeline"]
    slide = slide["slide"]
    corner = tuple(slide["bounds"][:2]) if slide["has_bounds"] else (0.0, 0.0)
    to_level0 = pyramid.grid.to_level0.after(Affine2D(2.0**level, 2.0**level))
    frame = Frame(width, height, pyramid.grid.mpp * 2**level, to_level0, corner)
    known = class_ > 0
    ids, first = np.unique(instance[known], return_index=True)
    names = [name for name, _ in pyramid.classes]
    classes = {int(i): names[c - 1] for i, c in zip(ids, class_[known][first], strict=True)}
    return Labels.of(instance, classes), frame
