"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks import mixed_archive
from benchmarks.mixed_archive.archive import Archive, build
from wsi_pipeline.errors import EXIT_SOME_FAILED
from wsi_pipeline.run.ledger import FINISHED, SlideRow, read_ledger
from wsi_pipeline.slides.find import find_slides

PLUGIN = Path(__file__).parents[1] / "plugin"
COMMAND = [sys.executable, "-c", "from wsi_pipeline.cli import main; main()", "run"]
WORKFLOW = """
name: quick
mpp: 1 um/px
tissue: {method: none}
prompts: {source: grid, class: Nucleus, spacing: 16 um}
segment: {model: dark, device: cpu, precision: fp32}
"""
"""All stages of a dense run with a cheap plug-in for the model: what counts here is the way through the archive."""

_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: exit code, seconds, and the most bytes that the coordinator's own process held."""

    code: int
    wall: float
    memory: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=mixed_archive.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=200, help="that can be done and are made here")
    parser.add_argument("--data", type=Path, help="folder of more slides, real ones")
    parser.add_argument("--output", type=Path, required=True, help="folder for slides and results; must not exist")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--workflow", help="name or file, instead of one with a cheap model")
    given = parser.parse_args()
    output = given.output.absolute()
    archive = build(output / "archive", given.slides)
    if given.data:
        real = [str(path.absolute()) for path in find_slides([given.data])]
        archive = replace(
            archive, given=[*archive.given, given.data], whole=archive.whole | dict.fromkeys(real, "done")
        )
    results, workflow = output / "results", given.workflow or output / "quick.yaml"
    if given.workflow is None:
        workflow.write_text(WORKFLOW, encoding="utf-8")
    words = [*archive.given, "-w", workflow, "-o", results, "--workers", given.workers]
    ended = run([str(word) for word in words], output / "log.jsonl")
    rows = {row.path: row for row in read_ledger(results / "ledger.jsonl")}
    unexpected = surprises(archive, rows)
    print(describe(archive, rows, ended, unexpected))
    sys.exit(bool(unexpected) or ended.code != EXIT_SOME_FAILED)


def run(words: list[str], log: Path) -> Ended:
    """Run the command line and watch its process, not its workers."""
    path = os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")])
    began, most = time.perf_counter(), 0
    with log.open("w", encoding="utf-8") as stderr:
        running = subprocess.Popen([*COMMAND, *words], stderr=stderr, env=os.environ | {"PYTHONPATH": path})
        process = psutil.Process(running.pid)
        while running.poll() is None:
            most = max(most, process.memory_info().rss)
            time.sleep(_LOOK_SECONDS)
    return Ended(running.returncode, time.perf_counter() - began, most)


def surprises(archive: Archive, rows: dict[str, SlideRow]) -> list[str]:
    """Every slide that ended otherwise than it should, and how."""
    found = [f"{path}: nobody asked for it" for path in rows.keys() - archive.whole.keys() - archive.broken.keys()]
    for path, state in archive.whole.items():
        row = rows.get(path)
        # whether there is anything on a piece of tissue depends on the workflow; on nothing there never is
        if row is None or row.state not in (FINISHED if state == "done" else (state,)):
            found.append(f"{path}: {row.state if row else 'unknown'} instead of {state}: {row and row.reason}")
    for path, reason in archive.broken.items():
        row = rows.get(path)
        if row is None or row.state != "failed" or not re.search(reason, row.reason or ""):
            found.append(f"{path}: {row.state if row else 'unknown'} instead of failed: {row and row.reason}")
    return sorted(found)


def describe(archive: Archive, rows: dict[str, SlideRow], ended: Ended, unexpected: list[str]) -> str:
    """What happened, for people."""
    failed = [rows[path] for path in archive.broken if path in rows]
    states = Counter(row.state for row in rows.values())
    width = max(len(Path(row.path).name) for row in failed)
    return "\n".join(
        [
            *(f"{Path(row.path).name:<{width}}  {row.state:<7} {row.reason}" for row in failed),
            "",
            f"failures expected  {len(archive.broken)}",
            f"failures observed  {states['failed']}",
            *(f"{state:<18} {count}" for state, count in sorted(states.items()) if state != "failed"),
            f"objects            {sum(row.objects or 0 for row in rows.values()):,}",
            f"exit code          {ended.code}",
            f"wall time          {ended.wall:.0f} s",
            f"coordinator        {ended.memory / 1e6:.0f} MB at most",
            *(f"unexpected         {line}" for line in unexpected),
        ]
    )


if __name__ == "__main__":
    main()
