"""The curves of a run: one table, and event files that hold every epoch once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.errors import TrainingError
from wsi_pipeline.training.curves import Curves


def rows(count: int) -> list[dict[str, Any]]:
    """Epochs from 0 on; the first one has no loss."""
    return [
        {"epoch": epoch, "loss": 1 / epoch if epoch else None, "boundary_iou": epoch / 10} for epoch in range(count)
    ]


def told(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(one.step, round(one.value, 4)) for one in events.Scalars(name)] for name in names}


def test_the_table_has_a_line_for_each_epoch(tmp_path: Path) -> None:
    Curves(tmp_path).write(rows(2))
    assert (tmp_path / "curves.csv").read_text() == "epoch,loss,boundary_iou\n0,,0.0\n1,1.0,0.1\n"
    assert not (tmp_path / "tensorboard").exists()


def test_a_run_that_goes_on_tells_every_epoch_once(tmp_path: Path) -> None:
    first = Curves(tmp_path, events=True)
    first.write(rows(1))
    first.write(rows(3))
    Curves(tmp_path, events=True).write(rows(4))
    assert told(tmp_path) == {
        "loss": [(1, 1.0), (2, 0.5), (3, 0.3333)],
        "boundary_iou": [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)],
    }


def test_without_tensorboard_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError) as caught:
        Curves(tmp_path, events=True)
    assert str(caught.value) == (
        "--tensorboard: TensorBoard is not installed. "
        "Run `pip install wsi-pipeline[tensorboard]`, or look at curves.csv."
    )
