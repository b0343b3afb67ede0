"""``wsi-pipeline export``: other files from a finished slide, without segmenting it again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_pipeline.errors import OutputError

if TYPE_CHECKING:
    from wsi_pipeline.slides.info import SlideInfo
    from wsi_pipeline.workflow import Workflow


class Format(StrEnum):
    """What to write."""

    geojson = "geojson"
    csv = "csv"
    ome_tiff = "ome-tiff"


def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished slide, e.g. out/slide.")],
    format: Annotated[Format, typer.Option("--format", "-f", help="What to write.")] = Format.geojson,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one key of the export section, e.g. --set gzip=true. Repeatable."),
    ] = None,
) -> None:
    """Write a finished slide's objects in another form.

    Example: `wsi-pipeline export out/slide --set gzip=true --set max_objects_per_file=100000`
    """
    info, workflow, colors = _finished(folder, settings)
    written = {Format.geojson: _geojson, Format.csv: _csv, Format.ome_tiff: _ome_tiff}[format](
        folder, output, info, workflow, colors
    )
    for path in written:
        typer.echo(path)


def _finished(folder: Path, settings: list[str] | None) -> tuple[SlideInfo, Workflow, dict[str, Any]]:
    from wsi_pipeline.cli.run import parse_settings
    from wsi_pipeline.run.provenance import read_json
    from wsi_pipeline.slides.info import SlideInfo
    from wsi_pipeline.stitching.ngff import MaskPyramid
    from wsi_pipeline.workflow import parse_workflow

    slide, run = read_json(folder / "slide.json"), read_json(folder.parent / "run.json")
    if slide is None or run is None:
        raise OutputError(
            "is no finished slide", where=folder, fix="Give a slide's folder inside the output folder of a run"
        )
    workflow = run["workflow"]
    workflow["export"] = workflow.get("export", {}) | parse_settings(settings)
    colors = dict(MaskPyramid.open(folder / "masks.ome.zarr").classes)
    return SlideInfo.from_dict(slide["slide"]), parse_workflow(workflow, where="--set"), colors


def _geojson(
    folder: Path, output: Path | None, info: SlideInfo, workflow: Workflow, colors: dict[str, Any]
) -> list[Path]:
    from wsi_pipeline.export.qupath import write_geojson
    from wsi_pipeline.export.table import read_fragments

    tissue = [path for path in [folder / "tissue.parquet"] if path.exists() and workflow.export.tissue_annotations]
    report = write_geojson(
        output or folder / "annotations.geojson",
        read_fragments([folder / "objects.parquet"]),
        info,
        workflow.export,
        colors,
        annotations=read_fragments(tissue),
        nested=workflow.nested,
    )
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return [*report.files, *([report.script] if report.script else [])]


def _csv(folder: Path, output: Path | None, info: SlideInfo, workflow: Workflow, colors: dict[str, Any]) -> list[Path]:
    from wsi_pipeline.export.table import classes_of, read_fragments, write_csv

    path, objects = output or folder / "objects.csv", folder / "objects.parquet"
    write_csv(path, read_fragments([objects]), classes_of(objects))
    return [path]


def _ome_tiff(
    folder: Path, output: Path | None, info: SlideInfo, workflow: Workflow, colors: dict[str, Any]
) -> list[Path]:
    from wsi_pipeline.export.ome_tiff import write_ome_tiff
    from wsi_pipeline.stitching.ngff import MaskPyramid

    path = output or folder / "masks.ome.tif"
    write_ome_tiff(MaskPyramid.open(folder / "masks.ome.zarr"), path)
    return [path]
