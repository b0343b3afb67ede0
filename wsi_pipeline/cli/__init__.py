"""The ``wsi-pipeline`` command: parses words, calls the package, turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import sys

from wsi_pipeline.errors import WsiPipelineError


def main() -> None:
    """Entry point of the console script."""
    from wsi_pipeline.cli.app import app

    _set_up_logging()
    try:
        app()
    except WsiPipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _set_up_logging() -> None:
    """Only lines of our own reach the terminal; what matters of a library's log comes as an error or a warning."""
    logging.getLogger().addHandler(logging.NullHandler())
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    handler.setLevel(logging.WARNING)
    logging.getLogger("wsi_pipeline.models").addHandler(handler)
