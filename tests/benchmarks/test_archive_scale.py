"""Slides without pixels go the way of real ones, and the page is made of what that took."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the installed package

from benchmarks.archive_scale.driving import drive
from benchmarks.archive_scale.nulls import Shape
from benchmarks.archive_scale.page import render

pytestmark = pytest.mark.slow


def test_slide_of_the_archive_has_the_tasks_of_a_dense_run() -> None:
    shape = Shape(5_000)
    assert shape.batches == 313
    assert shape.shards == [169, 49, 16, 4, 1, 1]
    assert shape.tasks == 2 * 313 + sum(shape.shards) + 2 * 169 + 6
    assert Shape(0).tasks == 4


def test_larger_batches_and_shards_make_fewer_tasks() -> None:
    shape = Shape(5_000, batch=256, shard=8192)
    assert shape.batches == 20
    assert shape.shards == [16, 4, 1, 1, 1, 1]
    assert shape.tasks == 2 * 20 + 24 + 2 * 16 + 6


def test_page_is_made_of_what_runs_took() -> None:
    driven = drive(3, Shape(100, seconds=0.01), 1)
    assert (driven.slides, driven.tiles, driven.tasks) == (3, 300, 3 * Shape(100).tasks)
    assert driven.asleep == pytest.approx(3 * 7 * 0.01)
    assert driven.wall > driven.asleep / driven.threads
    assert list(driven.memory) == [1, 10, 50, 100]
    run = asdict(driven)
    found = {"slides": run, "at once, 1": run, "at once, many": run, "asleep, 1": run}
    page = render(found | {"tiles": 5_000, "tasks": Shape(5_000).tasks, "cores": 2})
    assert "3 slides, each with 100 tiles" in page
    assert "1,210 tasks each" in page
    assert "A whole archive" not in page
    assert "nan" not in page


def test_page_tells_of_a_whole_archive_where_one_was_run() -> None:
    driven = drive(2, Shape(100, batch=64, shard=8192), 1)
    assert driven.tasks == 2 * Shape(100, batch=64, shard=8192).tasks
    run = asdict(driven)
    found = {"slides": run, "at once, 1": run, "at once, many": run, "asleep, 1": run, "whole": run}
    page = render(found | {"tiles": 5_000, "tasks": 1_210, "batch": 64, "shard": 8192, "cores": 2})
    assert "Tasks of 64 tiles or a shard of 8,192 px" in page
    assert f"These are {driven.tasks:,} tasks" in page
