"""A tissue mask the user brings along: an image that covers the slide's bounds, or QuPath annotations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import shapely
from PIL import Image, UnidentifiedImageError
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import GeoJSONError, WorkflowError
from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.qupath.classes import ARTEFACT, REGION, is_ignored_class
from wsi_pipeline.qupath.origin import Origin, origin_offset
from wsi_pipeline.qupath.reader import QuPathObject, read_objects
from wsi_pipeline.rasterise import rasterise
from wsi_pipeline.tissue.mask import TissueMask

if TYPE_CHECKING:
    from wsi_pipeline.slides.info import SlideInfo

_GEOJSON = (".geojson", ".json", ".geojson.gz", ".json.gz", ".geojson.zip")
_IMAGES = (".png", ".tif", ".tiff", ".bmp")
_MOST_DISTORTION = 0.05


def read_own_mask(path: Path | None, info: SlideInfo, grid: PixelGrid, qupath_origin: Origin = "auto") -> TissueMask:
    """Read a tissue mask.

    Args:
        path: an image (any size; above 0 is tissue, transparent is not), a QuPath GeoJSON, or a folder that
            holds one of them named after the slide.
        info: the slide.
        grid: the overview grid, on which annotations are drawn; an image keeps its own resolution.
        qupath_origin: how QuPath opened the slide; ``auto`` takes what the file itself says, else what QuPath does.

    Of annotations, those of class ``Region*`` are the tissue; where there are none, every outline of a class that
    QuPath does not ignore. Outlines of class ``Artefact*`` are cut out under their name.

    Raises:
        WorkflowError: no path, no such file, not an image, or the proportions of the image are not the slide's.
        GeoJSONError: the annotations cannot be read.
    """
    if path is None:
        raise WorkflowError("method: mask needs a mask", where="tissue.mask", fix="Add `mask: FILE` to the section")
    file = _file_for(Path(path), info)
    if file.name.lower().endswith(_GEOJSON):
        return _from_annotations(file, info, grid, qupath_origin)
    return _from_image(file, info)


def _from_annotations(path: Path, info: SlideInfo, grid: PixelGrid, origin: Origin) -> TissueMask:
    regions: list[BaseGeometry] = []
    others: list[BaseGeometry] = []
    artefacts: dict[str, list[BaseGeometry]] = {}
    for item in read_objects(path):
        if item.geometry is None or shapely.get_dimensions(item.geometry) != 2:
            continue
        outline = _on_slide(item, info, origin)
        if item.class_name == REGION:
            regions.append(outline)
        elif item.class_name == ARTEFACT:
            artefacts.setdefault(item.name or "artefact", []).append(outline)
        elif not is_ignored_class(item.class_name or ""):
            others.append(outline)
    if not regions and not others:
        raise GeoJSONError(
            "holds no outline of tissue", where=path, fix=f"Draw areas of class {REGION} and export them"
        )
    tissue = covered(regions or others, grid)
    masks = {name: covered(parts, grid) for name, parts in artefacts.items()}
    for mask in masks.values():
        tissue &= ~mask
    warnings = () if tissue.any() else (f"{path}: the outlines of tissue do not meet the slide",)
    return TissueMask(grid, tissue, masks, warnings)


def _on_slide(item: QuPathObject, info: SlideInfo, origin: Origin) -> BaseGeometry:
    """From px of the image QuPath opened to level-0 px of the uncropped slide."""
    written = item.collection.get("wsi_pipeline")
    if origin == "auto" and isinstance(written, dict) and written.get("origin") in get_args(Origin):
        origin = written["origin"]
    offset = origin_offset(info, origin)
    return shapely.transform(item.geometry, lambda xy: xy + offset)


def covered(geometries: Iterable[BaseGeometry], grid: PixelGrid) -> np.ndarray:
    """(h, w) bool: pixels of ``grid`` whose centre lies in a polygon of ``geometries`` (level-0 px).

    Lines and points cover nothing; a polygon in the hole of another is covered.
    """
    areas = [shapely.make_valid(geometry) for geometry in geometries if shapely.get_dimensions(geometry) == 2]
    return rasterise(shapely.union_all(areas), grid.to_level0.inverse(), grid.width, grid.height)


def _file_for(path: Path, info: SlideInfo) -> Path:
    if path.is_dir():
        for suffix in (*_IMAGES, *_GEOJSON):
            if (path / f"{info.name}{suffix}").is_file():
                return path / f"{info.name}{suffix}"
        raise WorkflowError(
            f"holds no tissue mask for {info.name}",
            where=path,
            fix=f"Put {info.name}.png or {info.name}.geojson there, or use `tissue.method: classical`",
        )
    if not path.is_file():
        raise WorkflowError("no such tissue mask", where=path, fix="Check `tissue.mask` in the workflow")
    return path


def _from_image(path: Path, info: SlideInfo) -> TissueMask:
    tissue = _read_image(path)
    height, width = tissue.shape
    bounds, resolution = info.bounds, info.resolution
    sx, sy = bounds.width / width, bounds.height / height
    # a px of rounding on the shorter side is no distortion, whatever the size
    if abs(width * bounds.height / bounds.width - height) > 1 + _MOST_DISTORTION * height:
        raise WorkflowError(
            f"the tissue mask of {width} x {height} px has other proportions than the slide's bounds of "
            f"{bounds.width:.0f} x {bounds.height:.0f} px",
            where=path,
            fix="Give a mask of this slide that covers exactly its bounds",
        )
    mpp = float(np.sqrt(sx * resolution.x * sy * resolution.y))
    return TissueMask(PixelGrid(width, height, Affine2D(sx, sy, bounds.x, bounds.y), mpp), tissue)


def _read_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return _above_zero(image)
    except Image.DecompressionBombError:
        raise WorkflowError("the tissue mask is too large", where=path, fix="Give a mask of 100 Mpx at most") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise WorkflowError(
            f"the tissue mask cannot be read ({error})", where=path, fix="Give a PNG or a QuPath GeoJSON"
        ) from None


def _above_zero(image: Image.Image) -> np.ndarray:
    if image.mode == "P":
        image = image.convert("RGBA")
    values: np.ndarray = np.atleast_3d(np.asarray(image))
    if image.mode in ("LA", "RGBA"):
        values = values[..., :-1] * (values[..., -1:] > 0)
    return np.any(values > 0, axis=-1)
