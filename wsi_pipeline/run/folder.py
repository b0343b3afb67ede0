"""The output folder: who may write in it, and where its ledger is; whole, or as one of several shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wsi_pipeline.errors import OutputError, WorkflowError
from wsi_pipeline.run.lease import Lease, is_held
from wsi_pipeline.run.ledger import Ledger, SlideRow, State, read_ledger
from wsi_pipeline.run.provenance import read_json
from wsi_pipeline.workflow import Workflow

_LEDGER, _LEASE = "ledger", ".lease"


@dataclass(frozen=True, slots=True)
class Shard:
    """The ``index``-th of ``count`` parts of an archive, counted from 1.

    Raises:
        WorkflowError: there is no such part.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise WorkflowError(
                "is no part of a whole", where=f"--shard {self}", fix="Write --shard 1/8 to --shard 8/8"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """``"3/8"``."""
        index, slash, count = text.partition("/")
        if not (slash and index.strip().isdecimal() and count.strip().isdecimal()):
            raise WorkflowError("is not i/n", where=f"--shard {text}", fix="Write --shard 1/8 to --shard 8/8")
        return cls(int(index), int(count))

    def holds(self, place: int) -> bool:
        """Whether the slide of that place among all, counted from 0, is of this part."""
        return place % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """What tells its files from those of other shards."""
        return f"-{self.index}-of-{self.count}"


@contextmanager
def open_folder(
    path: Path,
    workflow: Workflow,
    *,
    shard: Shard | None = None,
    overwrite: bool = False,
    lost: Callable[[], None],
    say: Callable[[str], None],
) -> Iterator[Ledger]:
    """The ledger of a folder that nobody else writes in, for the length of a run.

    Args:
        path: the folder; made when missing.
        workflow: results of another one are not mixed with its own.
        shard: the part of the archive that is done; others may be done at the same time.
        overwrite: whether results of another workflow may be replaced.
        lost, say: see ``Lease``.

    Raises:
        OutputError: it cannot be written, another run is using it, or it holds results of another workflow.
    """
    _probe(path)
    earlier = read_json(path / "run.json")
    if earlier is not None and not overwrite:
        name = earlier.get("workflow", {}).get("name")
        if name != workflow.name:
            raise OutputError(
                f"holds results of the workflow {name}, not {workflow.name}",
                where=path,
                fix="Choose another --output folder, or --overwrite to replace them",
            )
    with holding(path, shard, lost=lost, say=say):
        ledger = Ledger(path / f"{_LEDGER}{shard.suffix if shard else ''}.jsonl")
        try:
            yield ledger
        finally:
            ledger.close()


@contextmanager
def holding(
    path: Path,
    shard: Shard | None = None,
    *,
    lost: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda message: None,
) -> Iterator[None]:
    """The right to write in a folder, whole or as one of several shards.

    Raises:
        OutputError: another run is using it, or it cannot be written.
    """
    with Lease(path / f"{_LEASE}{shard.suffix if shard else ''}", lost=lost, say=say):
        if _held(lease for lease in _leases(path) if not _same_archive(lease, shard)):
            # a whole run and shards, or shards of different counts, would do the same slides
            raise OutputError(
                "another run is using this folder, with another --shard",
                where=path,
                fix="Wait for that run, or choose another --output folder",
            )
        yield


_PROGRESS: dict[State, int] = {"pending": 0, "running": 1, "failed": 2, "empty": 3, "done": 3}


def slides_in(path: Path) -> Iterator[SlideRow]:
    """Every slide that any run or shard entered, as far as they were written.

    Raises:
        OutputError: a ledger cannot be read.
    """
    known: dict[str, SlideRow] = {}
    for ledger in _ledgers(path):
        for row in read_ledger(ledger):
            before = known.get(row.id)
            # the whole folder's ledger and a shard's may both know a slide: who got further with it knows better
            if before is None or _PROGRESS[row.state] > _PROGRESS[before.state]:
                known[row.id] = row
    yield from known.values()


def runs_now(path: Path) -> bool:
    """Whether a run, or one of several shards, is using the folder."""
    return _held(_leases(path))


def _held(leases: Iterable[Path]) -> bool:
    """Whether anybody holds one of several leases; those of other machines have to be watched, so all at once."""
    found = list(leases)
    with ThreadPoolExecutor(max(1, len(found))) as pool:
        return any(pool.map(is_held, found))


def _probe(path: Path) -> None:
    probe = path / ".write-test"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})", where=path, fix="Choose another --output folder"
        ) from None


def _same_archive(lease: Path, shard: Shard | None) -> bool:
    """Whether the holder of a lease is this run, or another shard of it."""
    return lease.name == _LEASE if shard is None else lease.name.endswith(f"-of-{shard.count}")


def _leases(path: Path) -> list[Path]:
    names = (lease for lease in path.glob(f"{_LEASE}*") if "." not in lease.name[1:])
    return sorted(names)


def _ledgers(path: Path) -> list[Path]:
    return sorted(path.glob(f"{_LEDGER}*.jsonl"), key=lambda ledger: (ledger.stem != _LEDGER, ledger.name))


def remove_partial_files(path: Path) -> None:
    """What a killed run was writing in the folder itself."""
    for left in path.glob("*.partial"):
        with suppress(OSError):
            left.unlink(missing_ok=True)
