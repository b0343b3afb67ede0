"""What is done and what is not: one SQLite file per output folder, written by the coordinator only.

Rows say which slide is in which state and which tasks of which stage are finished, so that a run that was
killed goes on where it stopped. Journal mode stays at SQLite's default: write-ahead logs do not work on
network file systems.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_pipeline.errors import OutputError

State = Literal["pending", "running", "done", "empty", "failed"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS slides (
    id TEXT PRIMARY KEY, path TEXT UNIQUE NOT NULL, fingerprint TEXT, state TEXT NOT NULL, reason TEXT
);
CREATE TABLE IF NOT EXISTS tasks (
    slide TEXT NOT NULL, stage TEXT NOT NULL, number INTEGER NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (slide, stage, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class SlideRow:
    """One slide of the ledger."""

    id: str
    path: str
    fingerprint: str | None
    state: State
    reason: str | None


class Ledger:
    """The state of an output folder; as long as it is open, no other run can open it.

    Args:
        path: the SQLite file; made when missing.

    Raises:
        OutputError: another run has it open, the file cannot be written or is no ledger; so do all methods that write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path.with_name(".lock"))
        try:
            self._db = sqlite3.connect(path, timeout=30)
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._lock.close()
            raise OutputError(
                f"the ledger cannot be used ({error})", where=path, fix="Choose another --output folder"
            ) from None

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    def slides(self) -> Iterator[SlideRow]:
        """Every slide, in the order of their ids."""
        for row in self._db.execute("SELECT id, path, fingerprint, state, reason FROM slides ORDER BY id"):
            yield SlideRow(*row)

    def id_of(self, path: str) -> str | None:
        """The id a slide got in an earlier run."""
        row = self._db.execute("SELECT id FROM slides WHERE path = ?", (path,)).fetchone()
        return row[0] if row else None

    def slide(self, slide_id: str) -> SlideRow | None:
        query = "SELECT id, path, fingerprint, state, reason FROM slides WHERE id = ?"
        row = self._db.execute(query, (slide_id,)).fetchone()
        return SlideRow(*row) if row else None

    def add(self, slide_id: str, path: str) -> None:
        """Enter a slide as pending; an entry that exists stays as it is."""
        self._write("INSERT OR IGNORE INTO slides (id, path, state) VALUES (?, ?, 'pending')", slide_id, path)

    def set_state(
        self, slide_id: str, state: State, *, reason: str | None = None, fingerprint: str | None = None
    ) -> None:
        """Record a slide's state; a ``fingerprint`` of None keeps the old one."""
        query = "UPDATE slides SET state = ?, reason = ?, fingerprint = COALESCE(?, fingerprint) WHERE id = ?"
        self._write(query, state, reason, fingerprint, slide_id)

    def forget_tasks(self, slide_id: str, *, keep: Sequence[str] = ()) -> None:
        """Drop a slide's finished tasks, but for those of the stages to ``keep``, because they no longer count."""
        marks = ", ".join("?" * len(keep))
        self._write(f"DELETE FROM tasks WHERE slide = ? AND stage NOT IN ({marks})", slide_id, *keep)

    def finish(self, slide_id: str, stage: str, number: int, facts: dict[str, Any]) -> None:
        """Record a finished task and the small facts it returned."""
        self._write("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?)", slide_id, stage, number, json.dumps(facts))

    def finished(self, slide_id: str, stage: str) -> dict[int, dict[str, Any]]:
        """Finished tasks of one stage: number → facts."""
        query = "SELECT number, facts FROM tasks WHERE slide = ? AND stage = ? ORDER BY number"
        return {number: json.loads(facts) for number, facts in self._db.execute(query, (slide_id, stage))}

    def _write(self, query: str, *values: object) -> None:
        try:
            with self._db:
                self._db.execute(query, values)
        except sqlite3.Error as error:
            raise OutputError(
                f"the ledger cannot be written ({error})", where=self.path, fix="Check free space and permissions"
            ) from None


def _lock(path: Path) -> sqlite3.Connection:
    """Hold a lock that goes with the process, however it ends; the ledger itself stays readable for others."""
    lock = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        what = "another run is using this folder" if "locked" in str(error) else f"the folder cannot be used ({error})"
        raise OutputError(what, where=path.parent, fix="Wait for that run, or choose another --output folder") from None
    return lock
