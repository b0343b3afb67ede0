"""``wsi-pipeline retry``: what failed, or was not finished, once more."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli import shared_options as shared


def retry(
    output: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, not what was never finished.")] = False,
    workers: shared.Workers = None,
    cluster: shared.Cluster = "local",
    profile: shared.Profile = None,
    shard: shared.ShardOf = None,
    slides_at_once: shared.SlidesAtOnce = None,
    patience: shared.Patience = 60,
    log_json: shared.LogJson = None,
    prometheus: shared.Prometheus = None,
) -> None:
    """Run again what is not finished, with the slides, workflow and options of the last run into that folder.

    Example: `wsi-pipeline retry out --failed`

    Exit code: as of `run`.
    """
    from wsi_pipeline.run.archive import run_archive
    from wsi_pipeline.run.folder import Shard
    from wsi_pipeline.run.observe import reporters
    from wsi_pipeline.run.retry import asked_before, unfinished
    from wsi_pipeline.run.status import slides_of

    rows = slides_of(output)
    slides, workflow, asked = asked_before(output)
    only = unfinished(rows, only_failed=failed)
    if not only:
        typer.echo(f"{output}: " + ("nothing failed" if failed else f"all {len(rows)} slides are finished"))
        return
    options = dataclasses.replace(
        asked,
        only=frozenset(only),
        workers=workers,
        cluster=cluster,
        profile=profile,
        shard=None if shard is None else Shard.parse(shard),
        slides_at_once=slides_at_once,
        patience=60 * patience,
    )
    with reporters(log_json, prometheus) as reporter:
        raise typer.Exit(run_archive(slides, workflow, options, reporter))
