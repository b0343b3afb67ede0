"""What is done and what is not: lines of JSON that are only ever added to, by the coordinator alone.

No database: on a network file system its locks are what fails first, and a file of which the end is missing still says
all the rest. The archive's ledger has a line for every change of a slide's state; which tasks of a slide are finished
stands in a journal among the slide's intermediate files, and goes when they go.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any, Literal

from wsi_pipeline.errors import OutputError
from wsi_pipeline.files import beside, writing

State = Literal["pending", "running", "done", "empty", "failed"]

FINISHED = ("done", "empty")
"""States of a slide that nothing is left to do for."""


@dataclass(frozen=True, slots=True)
class SlideRow:
    """One slide of the ledger.

    Attributes:
        id: its folder in the output folder.
        path: absolute path or URL.
        fingerprint: of everything its results follow from; None before its first run.
        state: where it stands.
        reason: why it failed.
        seconds: how long it took; None while it is not finished.
        tiles: patches of its first stage.
        objects: what was found.
    """

    id: str
    path: str
    fingerprint: str | None = None
    state: State = "pending"
    reason: str | None = None
    seconds: float | None = None
    tiles: int | None = None
    objects: int | None = None


class Ledger:
    """The states of all slides of one output folder.

    Whoever writes holds the folder's lease, see ``run.lease``; anybody may read, see ``read_ledger``.

    Args:
        path: the file; made when missing, and made short again: of many lines about a slide the last one is kept.

    Raises:
        OutputError: the file cannot be written or read; so do all methods that write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = {row.id: row for row in read_ledger(path)}
        self._fits = {entry["workflow"]: entry["fits"] for entry in read_lines(path) if "fits" in entry}
        self._ids = {row.path: row.id for row in self._rows.values()}
        self._lock = threading.Lock()
        with beside(path) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(_line(asdict(row)) for row in self._rows.values())
            file.writelines(_line({"workflow": key, "fits": most}) for key, most in self._fits.items())
        self._lines = Lines(path)

    def close(self) -> None:
        self._lines.close()

    def slides(self) -> list[SlideRow]:
        """Every slide, in the order of their ids."""
        with self._lock:
            return sorted(self._rows.values(), key=lambda row: row.id)

    def id_of(self, path: str) -> str | None:
        """The id a slide got in an earlier run."""
        return self._ids.get(path)

    def slide(self, slide_id: str) -> SlideRow | None:
        return self._rows.get(slide_id)

    def add(self, slide_id: str, path: str) -> None:
        """Enter a slide as pending; an entry that exists stays as it is."""
        if slide_id not in self._rows and path not in self._ids:
            self._put(SlideRow(slide_id, path))

    def set_state(
        self, slide_id: str, state: State, *, reason: str | None = None, fingerprint: str | None = None, **facts: Any
    ) -> None:
        """Record a slide's state, with ``seconds``, ``tiles`` and ``objects`` where they are known.

        A ``fingerprint`` of None keeps the old one.
        """
        row = self._rows[slide_id]
        told = {"seconds": None, "tiles": None, "objects": None} | facts
        self._put(replace(row, state=state, reason=reason, fingerprint=fingerprint or row.fingerprint, **told))

    def fits(self, workflow: str) -> int | None:
        """Patch pairs of a workflow that fit in a worker's memory at once; None as long as it was never too many."""
        return self._fits.get(workflow)

    def remember_fits(self, workflow: str, most: int) -> None:
        """Record that more patch pairs than ``most`` did not fit."""
        with self._lock:
            if most < self._fits.get(workflow, most + 1):
                self._fits[workflow] = most
                self._lines.add({"workflow": workflow, "fits": most})

    def _put(self, row: SlideRow) -> None:
        with self._lock:
            self._lines.add(asdict(row))
            self._rows[row.id] = row
            self._ids[row.path] = row.id


def read_ledger(path: Path) -> Iterator[SlideRow]:
    """The last word on every slide, in the order they were entered; nothing where there is no ledger.

    Raises:
        OutputError: the file is there and cannot be read.
    """
    names = [f.name for f in fields(SlideRow)]
    rows: dict[str, SlideRow] = {}
    for entry in read_lines(path):
        if isinstance(entry.get("id"), str) and isinstance(entry.get("path"), str):
            rows[entry["id"]] = SlideRow(**{name: entry[name] for name in names if name in entry})
    yield from rows.values()


class Journal:
    """The finished tasks of one slide and the small facts they returned.

    Args:
        path: the file; made when missing.
        keep: stages of which what is finished counts still; None for all.

    Raises:
        OutputError: the file cannot be written or read; so does ``finish``.
    """

    def __init__(self, path: Path, keep: Collection[str] | None = None) -> None:
        self._finished: dict[str, dict[int, dict[str, Any]]] = {}
        for entry in read_lines(path):
            if keep is None or entry["stage"] in keep:
                self._finished.setdefault(entry["stage"], {})[entry["number"]] = entry["facts"]
        with beside(path) as partial, partial.open("w", encoding="utf-8") as file:
            for stage, tasks in self._finished.items():
                file.writelines(_line(_finished(stage, number, facts)) for number, facts in tasks.items())
        self._lines = Lines(path)

    def finish(self, stage: str, number: int, facts: dict[str, Any]) -> None:
        """Record a finished task and the small facts it returned."""
        self._lines.add(_finished(stage, number, facts))

    def finished(self, stage: str) -> dict[int, dict[str, Any]]:
        """Tasks of one stage that were finished before the journal was opened: number → facts; asked once a stage."""
        return dict(sorted(self._finished.pop(stage, {}).items()))

    def close(self) -> None:
        self._lines.close()


def _finished(stage: str, number: int, facts: dict[str, Any]) -> dict[str, Any]:
    return {"stage": stage, "number": number, "facts": facts}


class Lines:
    """A file of whole JSON lines that only grows; what one ``add`` writes is there whatever becomes of the process.

    Raises:
        OutputError: the file cannot be written; so does ``add``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._file: IO[bytes] = path.open("ab", buffering=0)

    def add(self, entry: dict[str, Any]) -> None:
        line = _line(entry).encode()
        end = self._file.seek(0, os.SEEK_END)
        with writing(self._path):
            try:
                written = self._file.write(line)
                if written < len(line):  # a disk that fills up takes a part first
                    self._file.write(line[written:])
            except OSError:
                self._file.truncate(end)
                raise

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines; a line that is damaged is passed over, as if it had not been written.

    Raises:
        OutputError: the file is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(
            f"cannot be read ({error.strerror or error})", where=path, fix="Choose another --output folder"
        ) from None


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"
