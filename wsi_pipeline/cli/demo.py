"""``wsi-pipeline demo``: the whole way on a real slide that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ROI = (560.0, 1880.0, 900.0, 900.0)
"""Part of the slide the demo is limited to, level-0 px: about an eighth, a minute or two on two cores."""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("demo-output"),
    whole: Annotated[bool, typer.Option("--whole", help="The whole slide instead of a part of it.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Local worker processes.")] = None,
) -> None:
    """Segment the nuclei of a real H&E slide (CMU-1-Small-Region, CC0) and say where the results are.

    Example: `wsi-pipeline demo`
    """
    from importlib import resources

    from wsi_pipeline.run.archive import RunOptions, run_archive
    from wsi_pipeline.workflow import load_workflow

    slide = Path(str(resources.files("wsi_pipeline") / "data" / "CMU-1-Small-Region.svs"))
    if not whole:
        typer.echo("The demo is limited to {2:.0f} x {3:.0f} px of the slide; --whole does all of it.".format(*ROI))
    options = RunOptions(output=output, roi=None if whole else ROI, workers=workers)
    code = run_archive([slide], load_workflow("nuclei"), options)
    if code == 0:
        folder = output / "CMU-1-Small-Region"
        typer.echo(f"QuPath annotations: {folder / 'annotations.geojson'}")
        typer.echo(f"mask pyramid:       {folder / 'masks.ome.zarr'}")
        typer.echo(f"picture:            {folder / 'overview.png'}")
        typer.echo(f"report:             {output / 'report.html'}")
    raise typer.Exit(code)
