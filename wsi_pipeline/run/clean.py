"""Removing what runs left in an output folder, and nothing else.

A file goes only if it lies where runs write files of that name, a folder only if it is empty then; links are neither
followed nor removed.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from wsi_pipeline.files import writing
from wsi_pipeline.run.folder import holding, slides_in
from wsi_pipeline.run.learning import CURVES, OUTLINED, RECORD
from wsi_pipeline.run.ledger import SlideRow
from wsi_pipeline.run.requests import LEARNED
from wsi_pipeline.run.slide import FINGERPRINT, JOURNAL, RESULTS
from wsi_pipeline.run.status import slides_of
from wsi_pipeline.run.walk import SCRATCH
from wsi_pipeline.workflow import LearnSettings


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


_SHARD = r"(?:-\d+-of-\d+)?"
_PARTIAL = r"[^/]*\.[0-9a-f]{8,32}\.partial"
_ZARR = r"(?:labels/(?:(?:instance|class)/)?)?(?:\d+/)?(?:zarr\.json|c(?:/\d+)+)"

_BETWEEN = _any_of(
    rf"{re.escape(SCRATCH)}/(?:{re.escape(FINGERPRINT)}|{re.escape(JOURNAL)}|(?:plan|first|objects|assembly)\.arrow)",
    rf"{re.escape(SCRATCH)}/(?:objects|seams|outlines|rows)/\d{{6,}}\.(?:arrow|json|parquet)",
    rf"masks\.ome\.zarr\.\d+\.partial/{_ZARR}",
    rf"(?:(?:{re.escape(SCRATCH)}|masks\.ome\.zarr)/(?:[^/]+/)*)?{_PARTIAL}",
)
"""Intermediate files, by their path in a slide's folder."""

_RESULTS = _any_of(
    *(f"(?!.*/){fnmatch.translate(name)}" for name in RESULTS), r"error\.txt", rf"masks\.ome\.zarr/{_ZARR}"
)

_LEFT = _any_of(r"\.write-test", r"\.lease(?:-\d+-of-\d+|\.[0-9a-f]{16})+", _PARTIAL)
"""What runs that were killed leave in the output folder itself."""

_FOLDERS = frozenset(f"{SCRATCH}/{name}" for name in ("", "objects/", "seams/", "outlines/", "rows/"))
"""Folders that may be there with nothing in them, by their path in a slide's folder."""

_LEARNING = _any_of(
    rf"{re.escape(SCRATCH)}/(?:checkpoint\.pt|{re.escape(CURVES)})",
    rf"{re.escape(SCRATCH)}/embeddings/(?:proposals/)?[0-9a-f]{{2}}/[0-9a-f]+\.safetensors",
    rf"(?:{re.escape(SCRATCH)}/(?:[^/]+/)*)?{_PARTIAL}",
    r"\.lease(?:\.[0-9a-f]{16})*",
)
"""What is needed to go on learning from points, by the path in the folder for what is learned."""

_SYSTEMS = "|".join(get_args(LearnSettings.model_fields["system"].annotation))
_WEIGHTS = _any_of(rf"(?:{_SYSTEMS})\.(?:safetensors|json)", re.escape(RECORD), re.escape(CURVES))
"""What was learned."""

_COPIES = _any_of(rf"[0-9a-f]{{16}}/(?:[0-9a-f]{{16}}|{_PARTIAL})/.+")
"""Copies of remote slides, by their path in the folder for them."""

_RECORDS = _any_of(r"run\.json", r"report\.html", rf"\.progress{_SHARD}\.json")
_LEDGERS = _any_of(rf"ledger{_SHARD}\.jsonl")


@dataclass(frozen=True, slots=True)
class Removed:
    """Files that are gone, and their size in bytes."""

    files: int = 0
    size: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.files + other.files, self.size + other.size)


def clean(
    output: Path,
    *,
    failed: bool = False,
    everything: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Removed]:
    """Remove intermediate files, those of slides that are not finished, too: they start anew.

    Args:
        output: output folder.
        failed: remove the results of slides that failed, too.
        everything: remove all that runs wrote, the records of what was done included.
        dry_run: only find out.
        say: told what takes a while.

    Returns:
        What was removed, by kind.

    Raises:
        OutputError: it is no output folder, a run is using it, or a file cannot be removed.
    """
    rows = slides_of(output)
    if dry_run:
        return _clean(output, rows, failed, everything, dry_run)
    with holding(output, lost=lambda: None, say=say):
        return _clean(output, rows, failed, everything, dry_run)


def _clean(output: Path, rows: list[SlideRow], failed: bool, everything: bool, dry_run: bool) -> dict[str, Removed]:
    folders = {output / row.id: row.state for row in rows if _is_name(row.id)}
    done = {"intermediate files": _take(output, _LEFT, dry_run, deep=False)}
    for folder in folders:
        done["intermediate files"] += _take(folder, _BETWEEN, dry_run)
    done["copies of remote slides"] = _take(output / ".staged", _COPIES, dry_run)
    if everything or failed:
        kind = "results" if everything else "results of failed slides"
        chosen = [folder for folder, state in folders.items() if everything or state == "failed"]
        done[kind] = sum((_take(folder, _RESULTS, dry_run) for folder in chosen), Removed())
    for kind, removed in _clean_learned(output / LEARNED, failed, everything, dry_run).items():
        done[kind] = done.get(kind, Removed()) + removed
    if everything:  # the ledgers last, as they name the folders
        records = [_take(output, pattern, dry_run, deep=False) for pattern in (_RECORDS, _LEDGERS)]
        done["records"] = sum(records, done.get("records", Removed()))
    return done


def _clean_learned(folder: Path, failed: bool, everything: bool, dry_run: bool) -> dict[str, Removed]:
    """The same of what was learned, and of the run in it that outlined the clicks."""
    outlined, done = folder / OUTLINED, {"intermediate files": _take(folder, _LEARNING, dry_run)}
    if outlined.is_dir() and not (folder.is_symlink() or outlined.is_symlink()):
        inner = _clean(outlined, list(slides_in(outlined)), failed, everything, dry_run)
        done = inner | {kind: inner[kind] + removed for kind, removed in done.items()}
        if everything and not dry_run:
            with suppress(OSError):  # it is not empty
                outlined.rmdir()
    if everything:
        done["results"] = done.get("results", Removed()) + _take(folder, _WEIGHTS, dry_run)
    return done


def _is_name(slide_id: str) -> bool:
    """Whether an id leads nowhere else, as ``..`` does; a ledger is a file that anybody can write to."""
    return slide_id not in ("", ".", "..") and os.path.basename(slide_id) == slide_id


def _take(folder: Path, ours: re.Pattern[str], dry_run: bool, *, inside: str = "", deep: bool = True) -> Removed:
    """Remove the files of a folder that are ours, and then every folder that held some, or was for some, if empty.

    Args:
        folder: the folder; nothing happens where it is a link.
        ours: what is removed, by the path from where the search began.
        dry_run: only find out.
        inside: that path of ``folder``.
        deep: whether to look into the folders it holds.
    """
    taken = Removed()
    if folder.is_symlink() or not folder.is_dir():
        return taken
    with writing(folder), os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        path, name = folder / entry.name, f"{inside}{entry.name}"
        if entry.is_dir(follow_symlinks=False) and deep:
            taken += _take(path, ours, dry_run, inside=f"{name}/")
        elif entry.is_file(follow_symlinks=False) and ours.fullmatch(name):
            with writing(path):
                taken += Removed(1, entry.stat(follow_symlinks=False).st_size)
                if not dry_run:
                    path.unlink()
    if deep and not dry_run and (taken.files or inside in _FOLDERS):
        with suppress(OSError):  # it is not empty
            folder.rmdir()
    return taken
