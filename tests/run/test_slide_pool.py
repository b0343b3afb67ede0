"""Slides side by side: each ends with a state and a reason, whatever becomes of the others."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wsi_pipeline.errors import DamagedFileError, SlideError, StorageError
from wsi_pipeline.run import slide_pool as module
from wsi_pipeline.run.flow import Stopped
from wsi_pipeline.run.ledger import Ledger
from wsi_pipeline.run.slide_pool import SlidePool
from wsi_pipeline.run.walk import Recipe, SlideTask
from wsi_pipeline.workflow import load_workflow


class Reporter:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.ended: dict[str, str | None] = {}

    def say(self, message: str, **facts: Any) -> None:
        self.said.append(message)

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        assert state == "failed"
        self.ended[slide_id] = facts["reason"]


class Stage:
    """Stands for the way of a slide: ``does[id]`` is what each of its tries does."""

    def __init__(self, tmp_path: Path) -> None:
        self.ledger = Ledger(tmp_path / "ledger.jsonl")
        self.reporter, self.flow = Reporter(), SimpleNamespace(ended=0, stop=lambda: None)
        self.context: Any = SimpleNamespace(
            ledger=self.ledger, reporter=self.reporter, flow=self.flow, staging=tmp_path / ".staged"
        )
        self.folder = tmp_path
        self.does: dict[str, list[Callable[[], None]]] = {}
        self.begun: list[str] = []
        self.at_work = self.most = 0
        self._lock = threading.Lock()

    def run_slide(self, task: SlideTask, context: Any) -> None:
        with self._lock:
            self.begun.append(task.id)
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        try:
            tries = self.does.get(task.id, [])
            if tries:
                tries.pop(0)()
            self.ledger.set_state(task.id, "done")
        finally:
            with self._lock:
                self.at_work -= 1

    def run(self, ids: str, at_once: int = 4, patience: float = 60) -> dict[str, str]:
        recipe = Recipe(load_workflow("tissue"), [], {}, 0)

        def tasks() -> Iterator[SlideTask]:
            for order, name in enumerate(ids):
                self.ledger.add(name, f"/{name}.svs")
                output = self.folder / name
                output.mkdir(exist_ok=True)
                yield SlideTask(name, f"/{name}.svs", f"/{name}.svs", recipe, None, None, output, order)

        SlidePool(self.context, lambda: at_once, patience).run(tasks())
        return {row.id: row.state for row in self.ledger.slides()}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(tmp_path)
    monkeypatch.setattr(module, "run_slide", stage.run_slide)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.01)
    return stage


def fail(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def test_slide_that_fails_stops_no_other_and_says_why(stage: Stage) -> None:
    stage.does = {"b": [fail(SlideError("is torn", where="/b.svs"))], "c": [fail(ValueError("odd\nnews"))]}
    assert stage.run("abcde") == {"a": "done", "b": "failed", "c": "failed", "d": "done", "e": "done"}
    assert stage.reporter.ended == {"b": "/b.svs: is torn", "c": "/c.svs: ValueError: odd"}
    assert stage.ledger.slide("b").reason == "/b.svs: is torn"
    assert "Traceback" in (stage.folder / "c" / "error.txt").read_text(), "what nobody foresaw can be looked into"
    assert not (stage.folder / "b" / "error.txt").exists()


def test_as_many_are_in_work_as_are_wanted_and_the_first_ones_begin_first(stage: Stage) -> None:
    together = threading.Barrier(3, timeout=10)
    stage.does = {name: [lambda: together.wait() and None] for name in "abcdef"}
    stage.run("abcdef", at_once=3)
    assert stage.most == 3
    assert set(stage.begun[:3]) == set("abc")


def test_more_are_begun_when_workers_come(stage: Stage) -> None:
    room = iter([1] + [4] * 1000)
    together = threading.Barrier(4, timeout=10)
    stage.does = {name: [lambda: together.wait() and None] for name in "abcd"}
    several = SlidePool(stage.context, lambda: next(room), 60)
    recipe = Recipe(load_workflow("tissue"), [], {}, 0)
    for name in "abcd":
        stage.ledger.add(name, name)
    several.run(SlideTask(name, name, name, recipe, None, None, stage.folder / name) for name in "abcd")
    assert stage.most == 4


@pytest.mark.parametrize("error", [StorageError("full"), OSError(28, "No space left on device"), OSError(116, "Stale")])
def test_storage_that_may_recover_is_tried_again_and_said_once(stage: Stage, error: Exception) -> None:
    stage.does = {"a": [fail(error)] * 5}
    assert stage.run("a") == {"a": "done"}
    assert stage.begun == ["a"] * 6
    assert len(stage.reporter.said) == 1
    assert stage.reporter.said[0].endswith("Waiting until it can go on")


def test_patience_with_storage_ends_unless_something_went_well_in_between(stage: Stage) -> None:
    stage.does = {"a": [fail(StorageError("full"))] * 1000}
    started = time.monotonic()
    assert stage.run("a", patience=0.2) == {"a": "failed"}
    assert 0.2 <= time.monotonic() - started < 5
    assert stage.reporter.ended == {"a": "full"}

    def get_on_then_fail() -> None:
        stage.flow.ended += 1
        time.sleep(0.15)
        raise StorageError("full")

    stage.does = {"b": [get_on_then_fail] * 4}
    assert stage.run("b", patience=0.1)["b"] == "done"


def test_other_errors_of_the_system_are_no_storage_to_wait_for(stage: Stage) -> None:
    stage.does = {"a": [fail(PermissionError(13, "Permission denied"))]}
    assert stage.run("a") == {"a": "failed"}
    assert stage.begun == ["a"]


def damaged(path: Path) -> Callable[[], None]:
    return fail(DamagedFileError("is damaged", where=path))


def test_damaged_file_is_removed_and_made_again_but_not_for_ever(stage: Stage) -> None:
    path = stage.folder / "a" / ".scratch" / "objects" / "000001.arrow"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    (path.parents[1] / "tasks.jsonl").write_text("{}")
    stage.does = {"a": [damaged(path)]}
    assert stage.run("a") == {"a": "done"}
    assert not path.exists()
    assert not (path.parents[1] / "tasks.jsonl").exists(), "what a task left is found by the task itself"
    stage.does = {"b": [damaged(stage.folder / "b" / "x"), damaged(stage.folder / "b" / "x")]}
    assert stage.run("b")["b"] == "failed"
    assert stage.begun.count("b") == 2


def test_nothing_outside_the_folder_of_the_slide_is_removed(stage: Stage) -> None:
    other = stage.folder / "precious"
    other.write_text("x")
    stage.does = {"a": [damaged(other)]}
    assert stage.run("a") == {"a": "failed"}
    assert other.read_text() == "x"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a shell starts in the background ignores the signal that Ctrl-C sends."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_slides_in_work_are_pending_again_when_the_run_is_stopped(stage: Stage) -> None:
    stopped = threading.Event()
    stage.flow.stop = stopped.set

    def wait() -> None:
        stopped.wait(10)
        raise Stopped

    stage.does = {name: [wait] for name in "bc"}

    def interrupt() -> None:
        while stage.at_work < 2:
            time.sleep(0.01)
        import _thread

        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        stage.run("abcd", at_once=2)
    assert {row.id: row.state for row in stage.ledger.slides()} == {"a": "done", "b": "pending", "c": "pending"}
    assert stage.reporter.ended == {}


def test_remote_slide_that_fails_leaves_no_copy(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[tuple[str, Path]] = []
    monkeypatch.setattr(module, "release", lambda url, cache: released.append((url, cache)))
    recipe = Recipe(load_workflow("tissue"), [], {}, 0)
    stage.ledger.add("a", "s3://bucket/a.svs")
    stage.does = {"a": [fail(SlideError("is torn"))]}
    task = SlideTask("a", "s3://bucket/a.svs", "s3://bucket/a.svs", recipe, None, None, stage.folder / "a")
    SlidePool(stage.context, lambda: 1, 1).run([task])
    assert released == [("s3://bucket/a.svs", stage.folder / ".staged")]
