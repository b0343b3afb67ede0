"""``.progress.json``: where the slides in work are, and for how long runs have been alive; for whoever looks in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.run.counts import At, Counting, Counts, Work
from wsi_pipeline.run.folder import Shard
from wsi_pipeline.run.provenance import read_json, write_json

_NAME = ".progress"
_FILES = f"{_NAME}*.json"
"""Pattern of the files in an output folder: one, or one for each shard."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a coordinator left last.

    Attributes:
        shards: how many parts its archive was cut into.
        run: of its latest run.
        before: what its earlier runs did in the same folder.
    """

    shards: int
    run: Counts
    before: Work

    @property
    def work(self) -> Work:
        """Of all runs."""
        return self.before + self.run.work


def snapshots(output: Path, shard: Shard | None = None) -> Counting:
    """A reporter that keeps a snapshot in the output folder."""
    path = output / f"{_NAME}{shard.suffix if shard else ''}.json"
    before: Work | None = None

    def write(counts: Counts) -> None:
        nonlocal before
        if before is None:
            earlier = _read(path)
            before = earlier.work if earlier else Work()
        write_json(path, {"shards": shard.count if shard else 1, "run": asdict(counts), "before": asdict(before)})

    return Counting(write)


def read_snapshots(output: Path) -> list[Snapshot]:
    """What the run, or each shard, left; nothing of those that left none."""
    return [shot for path in sorted(output.glob(_FILES)) if (shot := _read(path)) is not None]


def of_the_latest(shots: Sequence[Snapshot]) -> list[Snapshot]:
    """Those of one run, or of shards that belong together; an earlier run may have been cut up otherwise."""
    latest = max(shots, key=lambda shot: shot.run.updated, default=None)
    return [shot for shot in shots if latest is not None and shot.shards == latest.shards]


def _read(path: Path) -> Snapshot | None:
    facts = read_json(path) or {}
    try:
        return Snapshot(facts["shards"], _counts(facts["run"]), Work(**facts["before"]))
    except (KeyError, TypeError):  # of another version
        return None


def _counts(facts: dict[str, Any]) -> Counts:
    running = {slide_id: At(**at) for slide_id, at in facts["running"].items()}
    return Counts(**facts | {"work": Work(**facts["work"]), "running": running})
