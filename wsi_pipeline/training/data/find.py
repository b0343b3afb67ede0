"""The reader for a path: what is annotated, and what it lies over."""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.errors import DatasetError
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.training.data.outlines import open_outlines
from wsi_pipeline.training.data.points import open_points
from wsi_pipeline.training.data.pyramids import open_pyramid
from wsi_pipeline.training.data.samples import SampleSource
from wsi_pipeline.training.data.slides import FieldOfView, Origin
from wsi_pipeline.training.data.tiles import open_tiles

_GEOJSON = (".geojson", ".json", ".gz", ".zip")
_PYRAMID = ".zarr"


def open_source(
    path: Path,
    slide: Path | None = None,
    *,
    slide_mpp: float | None = None,
    field: FieldOfView | None = None,
    origin: Origin | None = None,
    points: bool = False,
) -> SampleSource:
    """Open a folder of tiles, or annotations over a slide.

    Args:
        path: a folder with a manifest or the manifest, a QuPath GeoJSON file, or a ``masks.ome.zarr``.
        slide: what the last two lie over.
        slide_mpp: µm per level-0 px of the slide, where the user knows better than the file.
        field: how much of the slide a sample shows.
        origin: what annotations over a slide do not say about themselves.
        points: whether the points of a GeoJSON file are wanted, and not its outlines.

    Raises:
        DatasetError, GeoJSONError, PromptError, OutputError, SlideError: any of it is missing or cannot be used.
    """
    over_slide = is_over_slide(path)
    if not path.exists():
        raise DatasetError("no such file or folder", where=path, fix="Check the path")
    if over_slide and slide is None:
        raise DatasetError("are annotations without a slide", where=path, fix="Add --slide with the slide they are of")
    if not over_slide and slide is not None:
        raise DatasetError("are tiles, which need no slide", where=path, fix="Leave --slide out")
    if slide is None:
        return open_tiles(path)
    open_geojson = open_points if points else open_outlines
    open_annotations = open_pyramid if path.suffix == _PYRAMID else open_geojson
    return open_annotations(path, open_slide(slide, mpp=slide_mpp), field, origin)


def is_over_slide(path: Path) -> bool:
    """Whether a path is one of annotations that lie over a slide, by its name."""
    return holds_shapes(path) or path.suffix == _PYRAMID


def holds_shapes(path: Path) -> bool:
    """Whether a path is one of points and outlines from QuPath, by its name."""
    return path.suffix in _GEOJSON
