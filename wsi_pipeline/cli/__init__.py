"""The ``wsi-pipeline`` command: parses words, calls the package, turns errors into one line and an exit code."""

from __future__ import annotations

import sys

from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    """Entry point of the console script."""
    from wsi_pipeline.cli.app import app

    try:
        app()
    except WsiPipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
