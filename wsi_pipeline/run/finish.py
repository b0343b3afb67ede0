"""What every mode ends with: the pyramid's coarser levels and the files people open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.geometry import Region
from wsi_pipeline.run import tasks
from wsi_pipeline.run.job import SlideJob
from wsi_pipeline.run.walk import Walk

if TYPE_CHECKING:
    import pyarrow as pa

    from wsi_pipeline.stitching.ngff import MaskPyramid

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: objects in the GeoJSON, rows of the table, and warnings."""

    objects: int
    rows: int
    warnings: list[str]


def new_pyramid(job: SlideJob, colors: Mapping[str, Rgb]) -> MaskPyramid:
    """The slide's empty pyramid, or the one an interrupted run began."""
    from wsi_pipeline.qupath.classes import class_color
    from wsi_pipeline.stitching.ngff import MaskPyramid

    if job.pyramid.exists():
        pyramid = MaskPyramid.open(job.pyramid)
        pyramid.remove_partial_files()
        return pyramid
    return MaskPyramid.create(
        job.pyramid,
        job.grid,
        chunk=job.workflow.stitch.chunk,
        shard=job.workflow.stitch.shard,
        classes=[(name, class_color(name, colors)) for name in job.classes if name is not None],
        slide=job.info,
    )


def write_levels(walk: Walk, job: SlideJob) -> None:
    """The coarser levels, one after the other, as each is made from the one before."""
    from wsi_pipeline.stitching.ngff import MaskPyramid

    pyramid = MaskPyramid.open(job.pyramid)
    for level in range(1, pyramid.n_levels):
        shards = pyramid.shards(level)
        todo = ((number, (job, level, row, col)) for number, (row, col) in enumerate(shards))
        walk.stage(f"level {level}", tasks.build_level, todo, len(shards))


def export(
    walk: Walk,
    job: SlideJob,
    rows: Sequence[Path],
    annotations: pa.Table | None,
    colors: Mapping[str, Rgb] | None = None,
) -> Exported:
    """Write the files people open, on the workers."""
    area = None if walk.context.roi is None else Region(*walk.context.roi)
    classes = dict(colors or {})
    calls: list[tuple[Any, ...]] = [
        (_export_geojson, job, list(rows), annotations, classes),
        (_export_tables, job, list(rows), annotations),
    ]
    if job.workflow.export.overview:
        calls.append((_export_overview, job, list(rows), annotations, classes, area))
    if job.workflow.export.ome_tiff:
        calls.append((_export_ome_tiff, job))
    report, count, *_ = walk.together("export", calls)
    walk.warnings += report.warnings
    return Exported(report.objects, count, report.warnings)


def _export_geojson(job: SlideJob, rows: list[Path], annotations: pa.Table | None, colors: dict[str, Rgb]) -> Any:
    from wsi_pipeline.export.qupath import write_geojson
    from wsi_pipeline.export.table import read_fragments

    path, extra = job.output / "annotations.geojson", [] if annotations is None else [annotations]
    nested = job.workflow.nested
    return write_geojson(
        path, read_fragments(rows), job.info, job.workflow.export, colors, annotations=extra, nested=nested
    )


def _export_tables(job: SlideJob, rows: list[Path], annotations: pa.Table | None) -> int:
    from wsi_pipeline.export.table import read_fragments, write_csv, write_geoparquet

    count = write_geoparquet(job.output / "objects.parquet", read_fragments(rows), job.info, job.recognised)
    if annotations is not None:
        write_geoparquet(job.output / "tissue.parquet", [annotations], job.info)
    if job.workflow.export.csv:
        write_csv(job.output / "objects.csv", read_fragments(rows), job.recognised)
    return count


def _export_overview(
    job: SlideJob, rows: list[Path], annotations: pa.Table | None, colors: dict[str, Rgb], area: Region | None
) -> None:
    from wsi_pipeline.export.overview import write_overview
    from wsi_pipeline.export.table import read_fragments
    from wsi_pipeline.qupath.classes import class_color

    extra = [] if annotations is None else [annotations]
    names = {name for name in job.classes if name is not None} | {"Region*", "Artefact*"}
    shown = {name: class_color(name, colors) for name in names}
    write_overview(
        job.output / "overview.png", job.open(), lambda: chain(extra, read_fragments(rows)), shown, job.grid, area
    )


def _export_ome_tiff(job: SlideJob) -> None:
    from wsi_pipeline.export.ome_tiff import write_ome_tiff
    from wsi_pipeline.run.job import pyramid_of

    write_ome_tiff(pyramid_of(job), job.output / "masks.ome.tif")
