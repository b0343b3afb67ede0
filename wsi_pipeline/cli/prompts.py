"""``wsi-pipeline prompts``: what a workflow would ask the model, before asking it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_pipeline.cli.run import parse_settings

if TYPE_CHECKING:
    from wsi_pipeline.prompts.prompt import PromptSet


def prompts(
    slide: Annotated[Path, typer.Argument(help="A slide.")],
    workflow: Annotated[str, typer.Option("--workflow", "-w", help="Name of a workflow or a YAML file.")] = "nuclei",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="QuPath GeoJSON, where the workflow reads it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the prompts as GeoJSON, to look at or edit in QuPath.")
    ] = None,
    mpp: Annotated[float | None, typer.Option("--mpp", help="µm per level-0 pixel to use instead.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change one key of the workflow.")] = None,
) -> None:
    """Count the prompts of a slide by kind and class, and write them as QuPath annotations.

    Example: `wsi-pipeline prompts slide.svs --workflow nuclei --output prompts.geojson`
    """
    from wsi_pipeline.export.qupath import write_geojson
    from wsi_pipeline.run.preview import preview_prompts, prompt_rows
    from wsi_pipeline.slides.slide import open_slide
    from wsi_pipeline.workflow import ExportSettings, load_workflow

    loaded = load_workflow(workflow, parse_settings(settings))
    with open_slide(slide, mpp=mpp) as opened:
        found = preview_prompts(opened, loaded, prompts)
        for line in _summary(found):
            typer.echo(line)
        if output is not None:
            section = ExportSettings(measurements=False, qupath_origin=loaded.export.qupath_origin)
            report = write_geojson(output, [], opened.info, section, annotations=[prompt_rows(found)])
            for path in report.files:
                typer.echo(path)


def _summary(found: PromptSet) -> list[str]:
    counts: dict[str, int] = {}
    for prompt in found.prompts:
        key = f"{prompt.kind:<6} {prompt.class_name or '(no class)'}"
        counts[key] = counts.get(key, 0) + 1
    lines = [f"{count:>8}  {key}" for key, count in sorted(counts.items())] or ["no prompts"]
    if found.rois is not None:
        lines.append("limited to the regions of interest in the file")
    return lines + [f"warning: {warning}" for warning in found.warnings]
