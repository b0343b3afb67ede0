"""``wsi-pipeline status``: how far a run is, from anywhere that sees its output folder."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wsi_pipeline.run.status import Status

REASONS_SHOWN = 20
SLIDES_SHOWN = 3
"""Of each reason; ``--failed`` has them all."""

RUNNING_SHOWN = 16
LOOK_SECONDS = 2.0


def status(
    output: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until the run ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only the slides that failed, each with its reason after a tab.")
    ] = False,
) -> None:
    """Say how many slides are done, which are in work and how far, how long it takes, and what failed and why.

    Whether a run on another machine is alive is seen after a few seconds.

    Example: `wsi-pipeline status out --watch`
    """
    from wsi_pipeline.run.status import slides_of, status_of

    if failed:
        for row in slides_of(output):
            if row.state == "failed":
                typer.echo(f"{row.id}\t{row.reason}")
    elif as_json:
        typer.echo(json.dumps(dataclasses.asdict(status_of(output)), ensure_ascii=False))
    elif watch:
        _watch(output)
    else:
        _console().print(_shown(status_of(output)))


def _watch(output: Path) -> None:
    from rich.live import Live

    from wsi_pipeline.run.status import status_of

    now = status_of(output)
    with Live(_shown(now), console=_console(), auto_refresh=False) as live:
        while now.alive:
            time.sleep(LOOK_SECONDS)
            now = status_of(output)
            live.update(_shown(now), refresh=True)


def _console():  # type: ignore[no-untyped-def]
    from rich.console import Console

    return Console(highlight=False)


def _shown(now: Status) -> RenderableType:
    from rich.console import Group

    parts: list[RenderableType] = [_summary(now)]
    if now.running:
        parts += ["", _running(now)]
    if now.failed:
        parts += ["", _failures(now)]
    return Group(*parts)


def _summary(now: Status) -> RenderableType:
    from rich.table import Table

    from wsi_pipeline.run.counts import brief, duration

    table = Table.grid(padding=(0, 2))
    table.add_row("run", "going on" if now.alive else "none is going on")
    table.add_row("slides", f"{sum(now.states.values()):,}: {_states(now)}")
    tiles = f" in {now.tiles:,} tiles" if now.tiles else ""
    table.add_row("found", f"{now.objects:,} objects{tiles}")
    if now.rate.slides:
        tiles = f", {brief(now.rate.tiles)} tiles/s" if now.rate.tiles else ""
        table.add_row("rate", f"{brief(now.rate.slides)} slides/h{tiles}")
    if now.left:
        table.add_row("left", f"about {duration(now.left)}")
    return table


def _states(now: Status) -> str:
    # what a run that is gone was at is in work no more
    names = {"running": "running" if now.alive else "interrupted"}
    order = ("done", "empty", "failed", "running", "pending")
    return " · ".join(f"{now.states[state]:,} {names.get(state, state)}" for state in order if state in now.states)


def _running(now: Status) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table("in work", "stage", "tasks", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for slide, at in list(now.running.items())[:RUNNING_SHOWN]:
        table.add_row(Text(slide), at.stage, f"{at.done:,} of {at.total:,}")
    if len(now.running) > RUNNING_SHOWN:
        table.add_row(f"and {len(now.running) - RUNNING_SHOWN} more")
    return table


def _failures(now: Status) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from wsi_pipeline.run.status import reasons_of

    table = Table("failed", "why", "slides", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    reasons = reasons_of(now.failed)
    for reason, rows in reasons[:REASONS_SHOWN]:
        names = ", ".join(row.id for row in rows[:SLIDES_SHOWN]) + (", …" if len(rows) > SLIDES_SHOWN else "")
        table.add_row(f"{len(rows):,}", Text(reason), Text(names))
    if len(reasons) > REASONS_SHOWN:
        table.add_row("", f"and {len(reasons) - REASONS_SHOWN} more reasons; --failed has them all")
    return table
