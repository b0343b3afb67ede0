"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.archive_scale.nulls import Shape
from benchmarks.pages import table

WORKERS, SECONDS = (64, 512), (2.0, 0.5, 0.1, 0.02)
"""Workers, and seconds that each of them needs for a tile, of which it is worked out what the coordinator allows."""

Run = Mapping[str, Any]


def render(found: Mapping[str, Any]) -> str:
    """Markdown of what the benchmark found."""
    slides, many = found["slides"], found["at once, many"]
    a_tile = _cost(many) * found["tasks"] / found["tiles"]
    lines = [
        "# What an archive costs the coordinator",
        "",
        "`python -m benchmarks.archive_scale --whole` writes this page; no number is typed by hand.",
        "",
        "The coordinator is the real one, with its scheduler in the same process, its ledger, journals and report, and"
        " so are the worker processes. The slides have no pixels: a task returns facts of the size of real ones at"
        f" once, or sleeps. Coordinator and workers shared {found['cores']} cores.",
        "",
        "## What grows with the number of slides",
        "",
        *_archive(slides),
        *(_whole(found) if "whole" in found else ()),
        "## What grows with the number of tasks",
        "",
        f"Slides of {found['tiles']:,} tiles: {found['tasks']:,} tasks each, of {Shape(0).batch} tiles or one shard."
        f" They end at once, so that the coordinator is all that takes time. {many['threads']} threads are what 64"
        " workers have.",
        "",
        table(
            [
                "processes",
                "threads",
                "slides",
                "µs for a task",
                "of the coordinator's CPU",
                "µs for a tile",
                "most tasks the scheduler held",
            ],
            (_costs(run) for run in _named(found, "at once")),
        ),
        "",
        "Looked at twice a second, the scheduler held the tasks that were under way or being forgotten, however many "
        "there were to do.",
        "",
        "## How well workers are kept busy",
        "",
        f"Batches that sleep {_seconds_of_a_batch(found):g} s, {_each(_sleeping(found)[0], 'tasks')} tasks for a slide,"
        " and as many slides more as there are workers more. The share of the threads' time in which they slept:",
        "",
        table(
            ["workers", "slides", "wall time", "busy"],
            (
                [
                    str(run["workers"]),
                    str(run["slides"]),
                    f"{run['wall']:.1f} s",
                    f"{run['asleep'] / run['threads'] / run['wall']:.0%}",
                ]
                for run in _sleeping(found)
            ),
        ),
        "",
        "## Worked out, not measured: 64 and 512 workers",
        "",
        f"A task costs the coordinator c = {_cost(many):,.0f} µs of CPU with {many['threads']} threads to serve, and a"
        f" tile r = {found['tasks']:,} c / {found['tiles']:,} = {a_tile:,.0f} µs. So it can serve 1 / r ="
        f" {1e6 / a_tile:,.0f} tiles a second. N workers that need t seconds for a tile ask for N / t; what they get,"
        " as a share of that, is min(1, t / (N r)):",
        "",
        table(
            ["seconds for a tile", *(f"{workers} workers" for workers in WORKERS)],
            ([f"{seconds:g}", *(f"{min(1, seconds / n / a_tile * 1e6):.0%}" for n in WORKERS)] for seconds in SECONDS),
        ),
        "",
        "Where that is too little, larger batches (`tiling.batch`) and shards (`stitch.shard`) make fewer tasks, and"
        " several runs can share an archive with `--shard`.",
    ]
    return "\n".join(lines) + "\n"


def _archive(run: Run) -> list[str]:
    """A run that is about its slides."""
    return [
        f"{run['slides']:,} slides, each with {_each(run, 'tiles')} tiles and {_each(run, 'tasks')} tasks, on"
        f" {run['workers']} workers: {run['wall']:,.0f} s, {1e3 * run['wall'] / run['slides']:.1f} ms for"
        " a slide, with its folder, its journal and its row in the ledger.",
        "",
        table(
            ["slides finished", "memory of the coordinator"],
            ([f"{percent} %", f"{held / 1e6:.0f} MB"] for percent, held in _memory(run)),
        ),
        "",
        f"From 10 % on that is {_growth(run):,.0f} bytes for a slide. The ledger has"
        f" {run['ledger'] / run['slides']:.0f} bytes for a slide; it is opened and made short again in"
        f" {run['opening']:.2f} s, and the report is written in {run['report']:.1f} s.",
        "",
    ]


def _whole(found: Run) -> list[str]:
    """The archive that was asked about, run from end to end."""
    run = found["whole"]
    return [
        "## A whole archive in one run",
        "",
        f"Tasks of {found['batch']} tiles or a shard of {found['shard']:,} px (`tiling.batch`, `stitch.shard`), which"
        f" end at once, on {run['threads']} threads.",
        "",
        *_archive(run),
        f"These are {run['tasks']:,} tasks, of which the scheduler held {run['held']:,} at most:"
        f" {1e6 * run['wall'] / run['tasks']:,.0f} µs for a task ({_cost(run):,.0f} of the coordinator's CPU) and"
        f" {1e6 * run['wall'] / run['tiles']:,.0f} µs for a tile. The wall time of so long a run counts what else the"
        " machine did meanwhile, the CPU time does not.",
        "",
    ]


def _each(run: Run, what: str) -> str:
    return f"{run[what] // run['slides']:,}"


def _memory(run: Run) -> list[tuple[int, int]]:
    return [(int(percent), held) for percent, held in run["memory"].items()]


def _growth(run: Run) -> float:
    """Bytes for a slide, after what a process gathers at its start."""
    held = dict(_memory(run))
    return (held[100] - held[10]) / (0.9 * run["slides"])


def _named(found: Mapping[str, Any], name: str) -> list[Run]:
    return [run for key, run in found.items() if key.startswith(name)]


def _sleeping(found: Mapping[str, Any]) -> list[Run]:
    return _named(found, "asleep")


def _seconds_of_a_batch(found: Mapping[str, Any]) -> float:
    run = _sleeping(found)[0]
    return run["asleep"] / run["slides"] / Shape(run["tiles"] // run["slides"]).batches


def _costs(run: Run) -> list[str]:
    return [
        str(run["workers"]),
        str(run["threads"]),
        str(run["slides"]),
        f"{1e6 * run['wall'] / run['tasks']:,.0f}",
        f"{_cost(run):,.0f}",
        f"{1e6 * run['wall'] / run['tiles']:,.0f}",
        f"{run['held']:,}",
    ]


def _cost(run: Run) -> float:
    """µs of the coordinator's CPU for a task."""
    return 1e6 * run["cpu"] / run["tasks"]
