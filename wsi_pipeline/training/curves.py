"""What every epoch came to, for people: a table, and the event files that TensorBoard shows."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.files import beside

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TABLE, EVENTS = "curves.csv", "tensorboard"


class Curves:
    """Rows of epochs in a folder.

    Args:
        folder: of the run.
        events: whether TensorBoard's files are wanted, too.

    Raises:
        TrainingError: they are, and TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, events: bool = False) -> None:
        self._folder, self._told = folder, 0
        self._writer = _writer_for(folder / EVENTS) if events else None

    def write(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the rows of all epochs so far, from 0 on.

        Raises:
            OutputError: they cannot be written.
        """
        _write_table(history, self._folder / TABLE)
        if self._writer is not None:
            for row in history[self._told :]:
                _tell(self._writer, row)
            self._writer.flush()
            self._told = len(history)


def _writer_for(folder: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError(
            "TensorBoard is not installed",
            where="--tensorboard",
            fix="Run `pip install wsi-pipeline[tensorboard]`, or look at curves.csv",
        ) from None
    # the run's history is written anew: a file of a process that was killed may lack epochs
    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder))


def _tell(writer: SummaryWriter, row: dict[str, Any]) -> None:
    for name, value in row.items():
        if value is not None and name != "epoch":
            writer.add_scalar(name, value, row["epoch"])


def _write_table(history: Sequence[dict[str, Any]], path: Path) -> None:
    stream = io.StringIO()
    table = csv.DictWriter(stream, list(history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    with beside(path) as partial:
        partial.write_text(stream.getvalue(), encoding="utf-8")
