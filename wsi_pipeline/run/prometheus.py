"""A run's counts as a file that Prometheus' node exporter reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import OutputError
from wsi_pipeline.files import beside
from wsi_pipeline.run.counts import Counting, Counts

if TYPE_CHECKING:
    from prometheus_client.core import Metric

STATES = ("done", "empty", "failed", "running", "pending")


def metrics_file(path: Path) -> Counting:
    """A reporter that keeps metrics in a file, which is whole at any time.

    The metrics have the label ``run``, the file's name without suffix, so that those of several runs on one machine
    are told apart.

    Raises:
        OutputError: the file cannot be written, or the library for it is not installed.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise OutputError(
            "prometheus_client is not installed", where="--prometheus", fix="pip install 'wsi-pipeline[metrics]'"
        ) from None

    def write(counts: Counts) -> None:
        with beside(path) as partial:
            partial.write_bytes(exposition(counts, path.stem))

    write(Counts())
    return Counting(write)


def exposition(counts: Counts, run: str) -> bytes:
    """The counts in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Told(Collector):
        def collect(self) -> Iterator[Metric]:
            return _metrics(counts, run)

    registry = CollectorRegistry()
    registry.register(Told())
    return generate_latest(registry)


def _metrics(counts: Counts, run: str) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    slides = GaugeMetricFamily("wsi_pipeline_slides", "Slides of the run by state.", labels=["run", "state"])
    running = len(counts.running)
    now = counts.states | {"running": running, "pending": counts.left - running}
    for state in STATES:
        slides.add_metric([run, state], now.get(state, 0))
    yield slides
    done = CounterMetricFamily("wsi_pipeline_tasks", "Tasks done by stage.", labels=["run", "stage"])
    for stage, number in sorted(counts.tasks.items()):
        done.add_metric([run, stage], number)
    yield done
    left = GaugeMetricFamily(
        "wsi_pipeline_tasks_left", "Tasks under way or waiting, of the stages slides are at.", labels=["run", "stage"]
    )
    for stage, number in sorted(_left(counts).items()):
        left.add_metric([run, stage], number)
    yield left
    for name, what, total in (
        ("objects", "Objects found, of finished slides.", counts.objects),
        ("tiles", "Tiles done, of finished slides.", counts.work.tiles),
    ):
        counter = CounterMetricFamily(f"wsi_pipeline_{name}", what, labels=["run"])
        counter.add_metric([run], total)
        yield counter
    for name, what, at in (
        ("start", "When the run started, seconds since 1970.", counts.started),
        ("last_update", "When these numbers were written, seconds since 1970.", counts.updated),
    ):
        gauge = GaugeMetricFamily(f"wsi_pipeline_{name}_time_seconds", what, labels=["run"])
        gauge.add_metric([run], at)
        yield gauge


def _left(counts: Counts) -> Counter[str]:
    left: Counter[str] = Counter()
    for at in counts.running.values():
        left[at.stage] += at.total - at.done
    return left
