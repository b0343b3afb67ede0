"""How far an output folder is: from its ledger and the snapshots that runs leave, whoever runs them wherever."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import OutputError
from wsi_pipeline.run.counts import At
from wsi_pipeline.run.folder import runs_now, slides_in
from wsi_pipeline.run.ledger import SlideRow
from wsi_pipeline.run.snapshot import Snapshot, of_the_latest, read_snapshots


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast slides were computed while a run was alive; zeros before the first slide is finished.

    Attributes:
        slides: per hour.
        tiles: per second.
    """

    slides: float
    tiles: float


@dataclass(frozen=True, slots=True)
class Status:
    """Where an archive stands.

    Attributes:
        alive: whether a run is going on.
        states: how many slides are in which state.
        objects, tiles: of finished slides.
        rate: of the run that is going on, or of the last one.
        left: seconds until it is finished, if the slides to come are like those it finished; None if nobody can know.
        running: slides in work, by id; empty when no run is going on.
        failed: the slides that failed, in the order of their ids.
    """

    alive: bool
    states: dict[str, int]
    objects: int
    tiles: int
    rate: Rate
    left: float | None
    running: dict[str, At]
    failed: list[SlideRow]


def status_of(output: Path) -> Status:
    """Look at an output folder; where a run on another machine may be alive, for as long as that takes to be seen.

    Raises:
        OutputError: it is none, or cannot be read.
    """
    rows = slides_of(output)
    alive = runs_now(output)
    shots = of_the_latest(read_snapshots(output))
    # of shards that are through with their part no speed is left
    unfinished = [shot for shot in shots if shot.run.left]
    return Status(
        alive=alive,
        states=dict(Counter(row.state for row in rows)),
        objects=sum(row.objects or 0 for row in rows),
        tiles=sum(row.tiles or 0 for row in rows),
        rate=rate_of(unfinished or shots),
        left=_seconds_left(shots) if alive else None,
        running={slide: at for shot in shots for slide, at in shot.run.running.items()} if alive else {},
        failed=[row for row in rows if row.state == "failed"],
    )


def slides_of(output: Path) -> list[SlideRow]:
    """Every slide of an output folder, in the order of their ids.

    Raises:
        OutputError: it is none, or cannot be read.
    """
    rows = sorted(slides_in(output), key=lambda row: row.id)
    if not rows and not (output / "run.json").is_file():
        what = "is not the output folder of a run" if output.exists() else "no such folder"
        raise OutputError(what, where=output, fix="Give the --output folder of a run")
    return rows


def rate_of(shots: Sequence[Snapshot]) -> Rate:
    """What several shards do at the same time, each in its latest run."""
    works = [shot.run.work for shot in shots if shot.run.work.seconds > 0]
    return Rate(
        slides=sum(3600 * work.slides / work.seconds for work in works),
        tiles=sum(work.tiles / work.seconds for work in works),
    )


def _seconds_left(shots: Sequence[Snapshot]) -> float | None:
    """Until the last of the shards is through."""
    seconds = 0.0
    for run in (shot.run for shot in shots if shot.run.left):
        if not run.work.slides:
            return None
        seconds = max(seconds, run.left * run.work.seconds / run.work.slides)
    return seconds


def reasons_of(failed: Sequence[SlideRow]) -> list[tuple[str, list[SlideRow]]]:
    """Slides that failed of the same, the commonest reason first; what names the slide is left out of the reason."""
    groups: dict[str, list[SlideRow]] = {}
    for row in failed:
        groups.setdefault(_in_general(row), []).append(row)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _in_general(row: SlideRow) -> str:
    reason = row.reason or "no reason is known"
    for name in (row.path, os.path.basename(row.path)):
        reason = reason.removeprefix(f"{name}: ").replace(name, "…")
    return reason
