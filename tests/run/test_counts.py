"""Counts of a run: what they say, when they are written, and that they never stop it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from wsi_pipeline.errors import OutputError
from wsi_pipeline.run.counts import At, Counting, Counts, Work, brief, duration
from wsi_pipeline.run.folder import Shard
from wsi_pipeline.run.snapshot import read_snapshots, snapshots


class Kept:
    """Remembers every writing."""

    def __init__(self) -> None:
        self.all: list[Counts] = []

    def __call__(self, counts: Counts) -> None:
        self.all.append(counts)


def tell(reporter: Counting) -> None:
    """A run of four slides: one done, one failed, one found finished, one in work."""
    reporter.slides(4)
    reporter.start("a", "segment", 2, 4)
    reporter.start("b", "tissue", 0, 1)
    reporter.advance("a", "segment")
    reporter.advance("a", "segment")
    reporter.finish("a", "done", objects=30, tiles=8)
    reporter.finish("b", "failed", reason="no such file")
    reporter.finish("c", "done", reason="finished by an earlier run")
    reporter.start("d", "segment", 0, 9)
    reporter.advance("d", "segment")


def test_what_an_earlier_run_finished_is_no_work_of_this_one() -> None:
    kept = Kept()
    reporter = Counting(kept, interval=3600)
    tell(reporter)
    reporter.close()
    counts = kept.all[-1]
    assert dict(counts.states) == {"done": 2, "failed": 1}
    assert (counts.work.slides, counts.work.tiles, counts.objects) == (1, 8, 30)
    assert dict(counts.tasks) == {"segment": 3}
    assert counts.left == 1


def test_slides_that_are_said_again_are_counted_from_the_start() -> None:
    """A run that learns first says them for what it learns from, and again for all."""
    kept = Kept()
    reporter = Counting(kept, interval=3600)
    tell(reporter)
    reporter.slides(9)
    reporter.finish("a", "done", objects=3)
    reporter.close()
    counts = kept.all[-1]
    assert (counts.states, counts.left, counts.objects, counts.running) == ({"done": 1}, 8, 3, {})


def test_nothing_is_written_before_the_folder_is_this_runs() -> None:
    kept = Kept()
    reporter = Counting(kept, interval=0.001)
    reporter.say("looking")
    time.sleep(0.02)
    reporter.close()
    assert not kept.all


def test_counts_are_fresh_even_while_nothing_happens() -> None:
    kept = Kept()
    reporter = Counting(kept, interval=0.01)
    reporter.slides(1)
    end = time.monotonic() + 30
    while len(kept.all) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    reporter.close()
    times = [counts.work.seconds for counts in kept.all]
    assert len(times) >= 4
    assert times == sorted(times)


def test_the_last_slides_end_is_written_at_once() -> None:
    kept = Kept()
    reporter = Counting(kept, interval=3600)
    reporter.slides(1)
    reporter.finish("a", "empty", objects=0, tiles=2)
    assert kept.all[-1].work.slides == 1
    reporter.close()


def test_counts_that_cannot_be_written_stop_nothing() -> None:
    def full(counts: Counts) -> None:
        raise OutputError("no space left")

    reporter = Counting(full, interval=0.001)
    tell(reporter)
    time.sleep(0.02)
    reporter.close()


def test_snapshot_says_where_slides_are_and_adds_up_runs(tmp_path: Path) -> None:
    for _ in range(2):
        reporter = snapshots(tmp_path)
        tell(reporter)
        reporter._put_down()
        (shot,) = read_snapshots(tmp_path)
        assert shot.run.running == {"d": At("segment", 1, 9)}
        reporter.close()
    (shot,) = read_snapshots(tmp_path)
    assert not shot.run.running, "the run is over"
    assert (shot.run.work.slides, shot.work.slides, shot.work.tiles) == (1, 2, 16)
    assert shot.work.seconds > shot.run.work.seconds


def test_every_shard_has_a_snapshot_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    for index in (1, 2):
        reporter = snapshots(tmp_path, Shard(index, 3))
        tell(reporter)
        reporter.close()
    (tmp_path / ".progress-3-of-3.json").write_text('{"run": {"started": 1}}')
    assert len(read_snapshots(tmp_path)) == 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "1 h 00 min"), (3725, "1 h 02 min"), (4e6, "1,111 h 07 min")],
)
def test_durations_read_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("number", "said"), [(1890.4, "1,890"), (99.96, "100"), (12.34, "12.3"), (0.04561, "0.0456")])
def test_rates_are_short(number: float, said: str) -> None:
    assert brief(number) == said


def test_work_adds_up() -> None:
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33)
