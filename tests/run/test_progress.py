"""What a run says: one JSON line per event, or bars for a person."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from wsi_pipeline import progress as shared_progress
from wsi_pipeline.run import progress
from wsi_pipeline.run.progress import SHOWN, Bars, Everybody, JsonLines, reporter_for


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (progress, shared_progress):
        monkeypatch.setattr(module, "time", clock)
    return clock


def events(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_event_is_one_json_line_whatever_it_says(clock: Clock) -> None:
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines.slides(2)
    lines.say('µm, "quotes"\nand lines', more=1)
    lines.finish("a", "failed", reason="no such file")
    assert [{key: value for key, value in event.items() if key != "time"} for event in events(stream)] == [
        {"event": "slides", "total": 2},
        {"event": "message", "message": 'µm, "quotes"\nand lines', "more": 1},
        {"event": "slide", "slide": "a", "state": "failed", "reason": "no such file"},
    ]
    assert {event["time"] for event in events(stream)} == {1e9 + 100}


def test_progress_is_said_every_few_seconds_and_at_the_end_of_a_stage(clock: Clock) -> None:
    stream = io.StringIO()
    lines = JsonLines(stream, interval=5)
    lines.start("a", "segment", 10, 20)
    for _ in range(10):
        clock.now += 1
        lines.advance("a", "segment")
    said = [event["done"] for event in events(stream) if event["event"] == "progress"]
    assert said == [15, 20]


def test_lines_arrive_at_once() -> None:
    class Stream(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Stream()
    lines = JsonLines(stream)
    lines.say("a")
    lines.say("b")
    assert stream.flushed == 2


def test_bars_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(reporter_for(io.StringIO()), JsonLines)
    bars = reporter_for(Terminal())
    assert isinstance(bars, Bars)
    bars.close()


def test_bars_name_the_slide_the_state_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.slides(2)
    bars.start("slide-1", "segment", 0, 3)
    bars.advance("slide-1", "segment")
    bars.finish("slide-1", "done", objects=12345)
    bars.finish("slide-2", "failed", reason="[bad] /a.svs: no such file")
    bars.say("a message")
    bars.close()
    shown = capsys.readouterr().err
    assert "slide-1: done, 12,345 objects" in shown
    assert "slide-2: failed: [bad] /a.svs: no such file" in shown
    assert "a message" in shown


def test_slides_in_work_at_the_same_time_each_have_their_own_count(clock: Clock) -> None:
    stream = io.StringIO()
    lines = JsonLines(stream, interval=0)
    lines.start("a", "segment", 0, 3)
    lines.start("b", "stitch", 5, 9)
    for slide, stage in (("a", "segment"), ("b", "stitch"), ("a", "segment")):
        lines.advance(slide, stage)
    said = [(event["slide"], event["done"]) for event in events(stream) if event["event"] == "progress"]
    assert said == [("a", 1), ("b", 6), ("a", 2)]


def test_more_slides_than_there_is_room_for_still_end_with_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    names = [f"slide-{number}" for number in range(SHOWN + 3)]
    bars.slides(len(names))
    for name in names:
        bars.start(name, "segment", 0, 2)
    for name in names:
        bars.advance(name, "segment")
        bars.finish(name, "done", objects=1)
    bars.close()
    shown = capsys.readouterr().err
    assert all(f"{name}: done, 1 objects" in shown for name in names)


def test_bars_begin_anew_when_slides_are_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.slides(1)
    bars.start("learned", "learn", 0, 4)
    bars.finish("a", "done")
    bars.slides(2)
    (archive,) = bars._progress.tasks
    assert (archive.completed, archive.total) == (0, 2)
    bars.close()


def test_everybody_is_told_the_same_one_call_at_a_time() -> None:
    class Careful(JsonLines):
        """Fails when a call comes before the last one ended."""

        inside = False

        def _emit(self, event: str, **facts: Any) -> None:
            assert not self.inside
            self.inside = True
            super()._emit(event, **facts)
            self.inside = False

    streams = io.StringIO(), io.StringIO()
    everybody = Everybody([Careful(stream, interval=0) for stream in streams])

    def walk(name: str) -> None:
        everybody.start(name, "segment", 0, 200)
        for _ in range(200):
            everybody.advance(name, "segment")
        everybody.finish(name, "done", objects=0)

    threads = [threading.Thread(target=walk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = (
        [{key: value for key, value in event.items() if key != "time"} for event in events(stream)]
        for stream in streams
    )
    assert first == second
    assert len(first) == 4 * 202
