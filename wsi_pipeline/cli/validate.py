"""``wsi-pipeline validate``: will QuPath import these files?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.errors import EXIT_BAD_INPUT, EXIT_OK


def validate(
    files: Annotated[list[Path], typer.Argument(help="GeoJSON files: .geojson, .json, .geojson.gz or .zip")],
) -> None:
    """Check GeoJSON files as QuPath 0.6 and later read them.

    One line per file: what QuPath will see, or the first bad feature and why. Exit code 2 if a file is refused.

    Example: wsi-pipeline validate out/slide-1/annotations.geojson
    """
    from wsi_pipeline.errors import WsiPipelineError
    from wsi_pipeline.qupath.validate import validate_file

    code = EXIT_OK
    for file in files:
        try:
            report = validate_file(file)
        except WsiPipelineError as error:
            typer.echo(f"refused  {error}")
            code = EXIT_BAD_INPUT
            continue
        warnings = "".join(f"; warning: {line}" for line in report.warnings)
        typer.echo(f"ok       {file}: {report.summary()}{warnings}")
    raise typer.Exit(code)
