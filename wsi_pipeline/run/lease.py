"""Who may write in an output folder: one coordinator at a time, wherever it runs.

A file in the folder names the holder and is renewed as long as that one lives. Nobody's clock is compared with another
one's, and no lock of the file system is asked for, as neither is to be trusted between the machines of a cluster: who
finds a lease watches whether it is renewed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from wsi_pipeline.errors import OutputError
from wsi_pipeline.files import beside, writing

BEAT_SECONDS = 5.0
"""A holder renews its lease this often."""

SETTLE_SECONDS = 0.5
"""Who took a lease over looks again after so long whether it kept it."""

STALE_SECONDS = 60.0
"""A lease that nobody renews for so long is abandoned; network file systems show a change this late at worst."""


class Lease:
    """The right to write in a folder, until ``release``.

    Args:
        path: the lease file.
        lost: called, from another thread, when somebody else took the lease: this process was taken for dead.
        say: told once that an abandoned lease is being watched, as that takes a while.

    Raises:
        OutputError: another coordinator holds it, or the folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        lost: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda message: None,
        beat: float = BEAT_SECONDS,
        stale: float = STALE_SECONDS,
    ) -> None:
        self._path, self._lost, self._beat = path, lost, beat
        self._token, self._count = secrets.token_hex(8), 0
        self._ended = threading.Event()
        settle = 0.0
        while not self._create(settle):
            self._take_over(say, stale)
            settle = SETTLE_SECONDS
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let others in."""
        self._ended.set()
        self._thread.join()
        if _holder(self._path).get("token") == self._token:
            with suppress(OSError):
                self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _create(self, settle: float) -> bool:
        """Leave a lease where there is none; linking a whole file is atomic on network file systems, too.

        Of several that take a lease over at once, one may move the new lease of another away for a moment; who has it
        after ``settle`` seconds has it.
        """
        mine = self._path.with_name(f"{self._path.name}.{self._token}")
        with writing(self._path.parent):
            mine.write_text(self._text(), encoding="utf-8")
            try:
                os.link(mine, self._path)
            except FileExistsError:
                settle = 0.0
            except OSError:  # a file system without links
                with suppress(FileExistsError), self._path.open("x", encoding="utf-8") as file:
                    file.write(self._text())
            finally:
                mine.unlink()
        time.sleep(settle)
        return _holder(self._path).get("token") == self._token

    def _take_over(self, say: Callable[[str], None], stale: float) -> None:
        """Remove the lease of a holder that is gone.

        Raises:
            OutputError: it is alive.
        """
        holder = _holder(self._path)
        if holder.get("machine") == _machine():
            if _runs(holder):
                raise _taken(self._path, holder)
        elif not self._stays(holder, stale, say):
            raise _taken(self._path, holder)
        # of several that find it abandoned one moves this very lease away; the others find nothing, or a new one
        aside = self._path.with_name(f"{self._path.name}.{self._token}")
        with suppress(FileNotFoundError), writing(self._path):
            self._path.rename(aside)
            if _holder(aside).get("token") != holder.get("token"):
                aside.rename(self._path)
            else:
                aside.unlink()

    def _stays(self, holder: dict[str, Any], stale: float, say: Callable[[str], None]) -> bool:
        """Whether a lease remains as it is for the whole of ``stale`` seconds."""
        end, said = time.monotonic() + stale, False
        while time.monotonic() < end:
            if _holder(self._path) != holder:
                return False
            if not said and time.monotonic() > end - stale + 2 * self._beat:
                said = True
                host = holder.get("host", "?")
                say(f"{self._path.parent}: a run on {host} left its lease; watching whether it lives")
            time.sleep(min(self._beat, stale) / 5)
        return True

    def _renew(self) -> None:
        while not self._ended.wait(self._beat):
            holder = _holder(self._path)
            if holder and holder.get("token") != self._token:
                self._lost()
                return
            self._count += 1
            # a disk may be full for now; whoever watches has patience
            with suppress(OutputError), beside(self._path) as partial:
                partial.write_text(self._text(), encoding="utf-8")

    def _text(self) -> str:
        me = {"host": socket.gethostname(), "machine": _machine(), "process": os.getpid()}
        return json.dumps(me | {"started": _started(os.getpid()), "token": self._token, "beat": self._count})


def is_held(path: Path, *, watch: float = 2.5 * BEAT_SECONDS) -> bool:
    """Whether a coordinator holds a lease: its process runs here, or it renews it within ``watch`` seconds."""
    holder = _holder(path)
    if not holder:
        return False
    if holder.get("machine") == _machine():
        return _runs(holder)
    end = time.monotonic() + watch
    while time.monotonic() < end:
        if _holder(path) != holder:
            return True
        time.sleep(0.2)
    return False


def _holder(path: Path) -> dict[str, Any]:
    """What a lease says; nothing where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _machine() -> str:
    """Where a process number means something: this machine since its start, and this container."""
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return " ".join(facts)


def _runs(holder: dict[str, Any]) -> bool:
    """Whether the process that took a lease on this host runs still; its number may be another one's by now."""
    return holder.get("started") is not None and _started(holder.get("process", 0)) == holder["started"]


def _started(process: int) -> float | None:
    """Seconds from the machine's start to the process's, which no change of the clock touches; None if it is gone."""
    import psutil

    try:
        found = psutil.Process(process)
        if found.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{process}/stat")
        if stat.exists():
            return float(stat.read_text().rpartition(")")[2].split()[19])
        return found.create_time()
    except (psutil.Error, OSError, ValueError):
        return None


def _taken(path: Path, holder: dict[str, Any]) -> OutputError:
    who = f"process {holder.get('process', '?')} on {holder.get('host', '?')}"
    return OutputError(
        f"another run is using this folder ({who})",
        where=path.parent,
        fix="Wait for that run, or choose another --output folder",
    )
