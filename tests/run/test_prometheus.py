"""The file for Prometheus, read by Prometheus' own parser."""

from __future__ import annotations

import builtins
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from wsi_pipeline.errors import OutputError
from wsi_pipeline.run.counts import At, Counts, Work
from wsi_pipeline.run.prometheus import exposition, metrics_file


def read(text: str) -> dict[tuple[str, str], float]:
    """Value by name and label; every sample has to be of the run."""
    values = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("run") == "night"
            values[sample.name, " ".join(labels.values())] = sample.value
    return values


def test_every_number_of_a_run_is_there_with_its_unit() -> None:
    counts = Counts(
        started=1e9,
        updated=1e9 + 60,
        total=10,
        states={"done": 3, "failed": 1},
        work=Work(60, 2, 500),
        objects=70,
        tasks={"segment": 40, "level 1": 2},
        running={"a": At("segment", 3, 10), "b": At("segment", 0, 5), "c": At("export", 1, 4)},
    )
    assert read(exposition(counts, "night").decode()) == {
        ("wsi_pipeline_slides", "done"): 3,
        ("wsi_pipeline_slides", "empty"): 0,
        ("wsi_pipeline_slides", "failed"): 1,
        ("wsi_pipeline_slides", "running"): 3,
        ("wsi_pipeline_slides", "pending"): 3,
        ("wsi_pipeline_tasks_total", "segment"): 40,
        ("wsi_pipeline_tasks_total", "level 1"): 2,
        ("wsi_pipeline_tasks_left", "segment"): 12,
        ("wsi_pipeline_tasks_left", "export"): 3,
        ("wsi_pipeline_objects_total", ""): 70,
        ("wsi_pipeline_tiles_total", ""): 500,
        ("wsi_pipeline_start_time_seconds", ""): 1e9,
        ("wsi_pipeline_last_update_time_seconds", ""): 1e9 + 60,
    }


def test_the_file_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "night.prom"
    reporter = metrics_file(path)
    reporter.slides(300)
    seen: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(read(path.read_text())["wsi_pipeline_slides", "done"])

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(300):
        reporter.finish(str(number), "done", objects=1)
        if number % 10 == 0:
            reporter._put_down()
    reporter.close()
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert read(path.read_text())["wsi_pipeline_slides", "done"] == 300
    assert [file.name for file in tmp_path.iterdir()] == ["night.prom"]


def test_a_file_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        metrics_file(tmp_path / "none" / "night.prom")


def test_without_the_library_the_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = builtins.__import__

    def lacking(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return ours(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(OutputError) as error:
        metrics_file(tmp_path / "night.prom")
    assert "pip install 'wsi-pipeline[metrics]'" in str(error.value)
