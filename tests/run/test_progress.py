"""What a run says: one JSON line per event, or bars for a person."""

from __future__ import annotations

import io
import json

import pytest

from wsi_pipeline import progress as shared_progress
from wsi_pipeline.run import progress
from wsi_pipeline.run.progress import Bars, JsonLines, reporter_for


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
