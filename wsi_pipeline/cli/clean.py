"""``wsi-pipeline clean``: room on the disk, without touching what no run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def clean(
    output: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    failed: Annotated[
        bool, typer.Option("--failed", help="Also what slides that failed left, the traceback included.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All that runs wrote: results, report and ledger, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove intermediate files. Slides that are not finished start anew by that; results stay.

    What no run wrote is left alone. While a run uses the folder nothing is removed.

    Example: `wsi-pipeline clean out --dry-run`
    """
    from wsi_pipeline.run.clean import clean as remove

    done = remove(output, failed=failed, everything=everything, dry_run=dry_run, say=_say)
    for kind, removed in done.items():
        typer.echo(f"{kind:<24} {removed.files:>9,} files {removed.size:>18,} bytes")
    if dry_run:
        typer.echo("nothing was removed")


def _say(message: str) -> None:
    typer.echo(message, err=True)
