"""Memory and time of a whole run over a giant slide, stage by stage, for the coordinator and for every worker.

python benchmarks/memory.py                      # 100 000 x 100 000 px with a million objects
python benchmarks/memory.py --compare            # and the same slide with a tenth of them
python benchmarks/memory.py --side 20000 --objects 40000

The slide is a real file (``sparse_slide``), and the run is the real one: a local Dask cluster, tissue, tiles, seams,
pyramid, outlines, GeoJSON, tables. Only the model is a cheap plug-in (``plugin/dark_model.py``). Needs Linux: peaks
are those the kernel keeps of every process, which are set back when a stage begins.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CAP = 1.5e9
"""Bytes that no process may exceed."""
TOLERANCE = 0.2
"""Share by which ten times the objects may raise a peak."""
_INTERVAL = 0.2
_OVERLAP = 64


@dataclass
class Peaks:
    """Highest resident memory in bytes, of this process and of the worker that holds most."""

    coordinator: int = 0
    worker: int = 0
    seconds: float = 0.0


@dataclass
class StageWatch:
    """A ``Reporter`` that notes how much memory each stage needs at most."""

    verbose: bool = False
    stages: dict[str, Peaks] = field(default_factory=lambda: defaultdict(Peaks))
    objects: int = 0
    state: str = ""
    _stage: str = "start"
    _began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def slides(self, total: int) -> None: ...

    def start(self, slide_id: str, stage: str, done: int, total: int) -> None:
        self.begin("levels" if stage.startswith("level ") else stage)

    def advance(self, slide_id: str, stage: str) -> None: ...

    def finish(self, slide_id: str, state: str, **facts: Any) -> None:
        self.state, self.objects = facts.get("reason") or state, facts.get("objects", 0)
        self.begin("end")

    def say(self, message: str, **facts: Any) -> None: ...

    def close(self) -> None: ...

    def begin(self, stage: str) -> None:
        """Close one stage and set all peaks back for the next."""
        with self._lock:
            self._note()
            peaks = self.stages[self._stage]
            peaks.seconds += time.monotonic() - self._began
            if self.verbose:
                print(f"{self._stage:10} {peaks.seconds:7.1f} s {_row(peaks)}", file=sys.stderr, flush=True)
            self._stage, self._began = stage, time.monotonic()
            for process in [os.getpid(), *workers()]:
                reset_peak(process)

    def _note(self) -> None:
        peaks = self.stages[self._stage]
        peaks.coordinator = max(peaks.coordinator, peak(os.getpid()))
        peaks.worker = max([peaks.worker, *map(peak, workers())])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the workers from time to time: what one that ends has held is gone."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_INTERVAL):
                with self._lock:
                    self._note()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.begin("after")

    def total(self) -> Peaks:
        """The highest peaks of all stages, and the time of all."""
        every = self.stages.values()
        return Peaks(max(p.coordinator for p in every), max(p.worker for p in every), sum(p.seconds for p in every))


def workers() -> list[int]:
    """The processes of the local cluster, which are children of this one."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    found = [int(number) for file in children for number in file.read_text().split()]
    return [number for number in found if b"spawn_main" in _read(number, "cmdline")]


def peak(process: int) -> int:
    """Bytes; 0 for a process that has ended."""
    for line in _read(process, "status").splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak(process: int) -> None:
    try:
        Path(f"/proc/{process}/clear_refs").write_text("5")
    except OSError:  # it has ended
        return


def _read(process: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except OSError:
        return b""


def measure(side: int, objects: int, capacity: int, n_workers: int, folder: Path, *, verbose: bool) -> dict[str, Any]:
    """Run once in this process; returns what happened as plain data."""
    from wsi_pipeline.run.archive import RunOptions, run_archive
    from wsi_pipeline.tiling.plan import TilePlan

    sys.path.insert(0, str(HERE / "plugin"))
    from dark_model import TILE
    from sparse_slide import SPACING, SparseSlide

    # the grid of questions of the first tile, on which the nuclei must lie
    rows, cols = TilePlan.shape(_grid(side), TILE, _OVERLAP)
    first = TilePlan(_grid(side), TILE, _OVERLAP, _kept(rows, cols), 1).tile(0, 0).x
    margin = (TILE - (TILE // SPACING - 1) * SPACING) // 2
    slide = SparseSlide.holding(objects, side=side, capacity=capacity, phase=(first + margin) % SPACING)
    path = folder / "slide.tif"
    slide.write(path)
    watch = StageWatch(verbose)
    with watch.watching():
        code = run_archive([path], _workflow(), RunOptions(folder / "out", workers=n_workers), watch)
    if code:
        raise SystemExit(f"the run ended with {code}: {watch.state}")
    stages = {name: vars(peaks) for name, peaks in watch.stages.items()}
    facts = json.loads((folder / "out" / "slide" / "slide.json").read_text())
    return {
        "objects": watch.objects,
        "drawn": slide.objects,
        "tasks": sum(stage["tasks"] for stage in facts["tasks"].values()),
        "stages": stages,
        "total": vars(watch.total()),
    }


def _grid(side: int) -> Any:
    from wsi_pipeline.geometry import Affine2D, PixelGrid

    return PixelGrid(side, side, Affine2D(), 0.5)


def _kept(rows: int, cols: int) -> Any:
    import numpy as np

    return np.ones((rows, cols), bool)


def _workflow() -> Any:
    from sparse_slide import MPP, SPACING

    from wsi_pipeline.workflow import parse_workflow

    return parse_workflow(
        {
            "name": "memory",
            "mpp": MPP,
            "tiling": {"overlap": f"{_OVERLAP} px", "batch": 16},
            "prompts": {"source": "grid", "class": "Nucleus", "spacing": f"{SPACING * MPP} um"},
            "segment": {"model": "dark", "device": "cpu", "precision": "fp32"},
            "vectorize": {"simplify": "0.25 um", "min_area": "8 um2", "fill_holes": "20 um2"},
            "export": {"csv": True},
        }
    )


def run_apart(arguments: argparse.Namespace, objects: int) -> dict[str, Any]:
    """Run in a process of its own, which alone can tell what a coordinator needs."""
    command = [sys.executable, __file__, "--json", "--objects", str(objects), "--capacity", str(arguments.capacity)]
    command += ["--side", str(arguments.side), "--workers", str(arguments.workers)]
    command += ["--verbose"] * arguments.verbose
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _row(peaks: Peaks) -> str:
    return f"{peaks.coordinator / 1e6:8.0f} MB {peaks.worker / 1e6:8.0f} MB"


def _growth(few: int, many: int) -> str:
    ratio = f"{many / few:5.2f}" if few else "    -"
    return f"{few / 1e6:8.0f} -> {many / 1e6:5.0f} MB {ratio}"


def report(result: dict[str, Any], side: int) -> None:
    print(f"{result['objects']:,} objects on {side:,} x {side:,} px, {result['tasks']:,} tasks".replace(",", " "))
    print(f"  {'stage':10} {'time':>9} {'coordinator':>11} {'worker':>11}")
    for name, peaks in [*result["stages"].items(), ("whole run", result["total"])]:
        print(f"  {name:10} {peaks['seconds']:7.1f} s {_row(Peaks(**peaks))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=100_000, help="of the slide, px")
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--capacity", type=int, help="size the tissue for so many objects; --objects by default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compare", action="store_true", help="also a tenth of the objects on the same tissue")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    parser.add_argument("--verbose", action="store_true", help="say when a stage ends")
    parser.add_argument("--folder", type=Path, help="keep slide and results in this new folder")
    arguments = parser.parse_args()
    arguments.capacity = arguments.capacity or arguments.objects
    if arguments.compare:
        compare(arguments)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        result = measure(
            arguments.side, arguments.objects, arguments.capacity, arguments.workers, folder, verbose=arguments.verbose
        )
    if arguments.json:
        print(json.dumps(result))
    else:
        report(result, arguments.side)


def compare(arguments: argparse.Namespace) -> None:
    tenth, full = (run_apart(arguments, n) for n in (arguments.objects // 10, arguments.objects))
    for result in (tenth, full):
        report(result, arguments.side)
    print(f"  {'stage':10} {'coordinator':>22} {'worker':>30}")
    for name in full["stages"]:
        few, many = (Peaks(**result["stages"][name]) for result in (tenth, full))
        print(f"  {name:10} {_growth(few.coordinator, many.coordinator)} {_growth(few.worker, many.worker)}")
    good = True
    for who in ("coordinator", "worker"):
        ratio = full["total"][who] / tenth["total"][who]
        passed = ratio <= 1 + TOLERANCE and full["total"][who] < CAP
        good &= passed
        print(f"peak of the {who}: {full['total'][who] / 1e9:.2f} GB, {ratio:.2f} times that of a tenth of the objects")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
