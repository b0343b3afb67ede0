"""``wsi-pipeline run``: slides in, masks and annotations out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from wsi_pipeline.cli import shared_options as shared
from wsi_pipeline.errors import WorkflowError


def run(
    slides: Annotated[
        list[str],
        typer.Argument(
            help="Slide files, folders, quoted globs, URLs (s3://…, https://…) or manifests (.csv, .parquet)."
        ),
    ],
    workflow: Annotated[
        str, typer.Option("--workflow", "-w", help="Name of a workflow (see `workflows list`) or a YAML file.")
    ] = "nuclei",
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder; made when missing.")] = Path("out"),
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="QuPath GeoJSON for one slide, or a folder holding <slide name>.geojson."),
    ] = None,
    example: Annotated[
        list[Path] | None,
        typer.Option("--example", help="Slide with an example of what is wanted, for find-similar. Repeatable."),
    ] = None,
    example_annotation: Annotated[
        list[Path] | None,
        typer.Option("--example-annotation", help="QuPath GeoJSON that outlines it; one for each --example."),
    ] = None,
    example_mpp: Annotated[
        float | None, typer.Option("--example-mpp", help="µm per level-0 pixel of the examples' slides, as --mpp.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="µm per level-0 pixel, where the slide does not say or is wrong.")
    ] = None,
    roi: Annotated[
        str | None, typer.Option("--roi", help="Only this rectangle: x,y,width,height in level-0 pixels.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one key of the workflow, e.g. --set segment.model=sam. Repeatable."),
    ] = None,
    workers: shared.Workers = None,
    threads: shared.Threads = 1,
    cluster: shared.Cluster = "local",
    profile: shared.Profile = None,
    shard: shared.ShardOf = None,
    slides_at_once: shared.SlidesAtOnce = None,
    staging: Annotated[
        Path | None,
        typer.Option("--staging", metavar="FOLDER", help="Where remote slides are copied while they are in work."),
    ] = None,
    patience: shared.Patience = 60,
    log_json: shared.LogJson = None,
    prometheus: shared.Prometheus = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Start Dask's dashboard and say where.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of another workflow in the output folder.")
    ] = False,
    keep_scratch: Annotated[
        bool, typer.Option("--keep-scratch", help="Keep the intermediate files of finished slides.")
    ] = False,
    cache_embeddings: Annotated[
        Path | None,
        typer.Option(
            "--cache-embeddings",
            metavar="FOLDER",
            help="Keep the embeddings of all patches there, and use those that are there (2 to 17 MB each).",
        ),
    ] = None,
) -> None:
    """Segment slides. What is finished already is not computed again; Ctrl-C stops cleanly.

    Example: `wsi-pipeline run archive/*.svs --workflow nuclei --output out`

    Exit code: 0 all done, 3 some slides failed (the others are complete), 2 bad input, 130 interrupted.
    """
    from wsi_pipeline.run.archive import RunOptions, run_archive
    from wsi_pipeline.run.folder import Shard
    from wsi_pipeline.run.observe import reporters
    from wsi_pipeline.workflow import load_workflow, with_examples

    options = RunOptions(
        output=output,
        prompts=prompts,
        mpp=mpp,
        roi=parse_roi(roi),
        workers=workers,
        threads=threads,
        cluster=cluster,
        profile=profile,
        dashboard=dashboard,
        overwrite=overwrite,
        keep_scratch=keep_scratch,
        embeddings=cache_embeddings,
        staging=staging,
        shard=None if shard is None else Shard.parse(shard),
        slides_at_once=slides_at_once,
        patience=60 * patience,
    )
    chosen = load_workflow(workflow, parse_settings(settings))
    chosen = with_examples(chosen, example or [], example_annotation or [], mpp=example_mpp)
    with reporters(log_json, prometheus) as reporter:
        raise typer.Exit(run_archive(slides, chosen, options, reporter))


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """``["segment.model=sam"]`` → ``{"segment.model": "sam"}``; values are read as YAML."""
    import yaml

    overrides = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise WorkflowError("is not KEY=VALUE", where=f"--set {setting}", fix="Write --set segment.model=sam")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            fix = "Put the value in quotes, as in --set 'prompts.class=\"a: b\"'"
            raise WorkflowError("is not YAML", where=f"--set {setting}", fix=fix) from None
    return overrides


def parse_roi(text: str | None) -> tuple[float, float, float, float] | None:
    """``"x,y,width,height"`` in level-0 px."""
    if text is None:
        return None
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        width = height = -1.0
        x = y = 0.0
    if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
        raise WorkflowError("is not x,y,width,height", where=f"--roi {text}", fix="Write e.g. --roi 1000,2000,512,512")
    return x, y, width, height
