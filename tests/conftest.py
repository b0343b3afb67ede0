"""A synthetic slide, a plug-in model without a network, and the command line as people call it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# As in the workers of a run, and before torch is imported: two threads on a busy machine wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import tifffile
from hypothesis import settings

# a busy machine is no failure, and a run of CI can be repeated
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")

PLUGIN = Path(__file__).parent / "plugin"
SLURM = Path(__file__).parent / "cluster" / "slurm"
SLURM_COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch")
COMMAND = [sys.executable, "-c", "from wsi_pipeline.cli import main; main()"]

THRESHOLD = {
    "segment.model": "threshold",
    "segment.device": "cpu",
    "segment.precision": "fp32",
    "tissue.method": "none",
}
"""Settings that replace the network of a workflow by the plug-in."""

REFINED = THRESHOLD | {"refine.model": "threshold", "refine.device": "cpu", "refine.precision": "fp32"}
"""The same for a workflow with a refine stage."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of a run; every line of stderr has to be one."""
        return [json.loads(line) for line in self.err.splitlines()]

    def slides(self) -> dict[str, dict[str, Any]]:
        """The last word on every slide, by its id."""
        return {event["slide"]: event for event in self.events if event["event"] == "slide"}


def arguments(settings: dict[str, Any]) -> list[str]:
    """``--set`` options."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def call(*words: object, **environment: str) -> Result:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PLUGIN), "COLUMNS": "200"} | environment,
        timeout=300,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def call_here(*words: object) -> Result:
    """Run the command line in this process: the same words, without the start of an interpreter."""
    from wsi_pipeline.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["wsi-pipeline", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
    return Result(code, out.getvalue(), err.getvalue())


def stained(width: int, height: int, count: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: dark ovals of 12 to 26 px on pink."""
    random = np.random.default_rng(seed)
    image = random.normal((228, 186, 208), 4, (height, width, 3))
    y, x = np.mgrid[-16:17, -16:17]
    for _ in range(count):
        cx, cy = random.integers(20, width - 20), random.integers(20, height - 20)
        a, b = random.uniform(6, 13, 2)
        image[cy - 16 : cy + 17, cx - 16 : cx + 17][(x / a) ** 2 + (y / b) ** 2 < 1] = (98, 66, 138)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_tiff(path: Path, image: np.ndarray, *, mpp: float | None = 0.5, **options: Any) -> Path:
    """A plain tiled TIFF with its pixel size in the resolution tags."""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None} | options
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, **options)
    return path


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a slide's results, by name; what tells times and places is left out."""
    files = [folder / "annotations.geojson", folder / "objects.parquet", folder / "tissue.parquet"]
    files += sorted(path for path in (folder / "masks.ome.zarr").rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()
    }


@dataclass(frozen=True, slots=True)
class Tools:
    """The helpers of this file, for tests in folders below."""

    call: Callable[..., Result] = call
    call_here: Callable[..., Result] = call_here
    arguments: Callable[[dict[str, Any]], list[str]] = arguments
    stained: Callable[..., np.ndarray] = stained
    write_tiff: Callable[..., Path] = write_tiff
    contents: Callable[[Path], dict[str, str]] = contents
    command: Sequence[str] = tuple(COMMAND)
    plugin: Path = PLUGIN
    threshold: dict[str, Any] = field(default_factory=lambda: dict(THRESHOLD))
    refined: dict[str, Any] = field(default_factory=lambda: dict(REFINED))


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()


@pytest.fixture(scope="module")
def plugin() -> Iterator[None]:
    """The model ``threshold`` can be named, here and in processes started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGIN))
        patch.setenv("PYTHONPATH", str(PLUGIN))
        yield


@pytest.fixture(scope="module")
def cluster(plugin: None) -> Iterator[str]:
    """Address of a standing Dask cluster of two workers."""
    from wsi_pipeline.cluster.connect import connect

    with connect(workers=2) as client:
        yield client.scheduler.address


@pytest.fixture(scope="session")
def small_sam() -> Callable[[], Any]:
    """Builds a SAM of 256 px whose encoder is a single block of a plain ViT, the same every time."""
    import torch
    from torch import nn

    from wsi_pipeline.models.backbones.vit import Block, ViTSize
    from wsi_pipeline.models.layers import EncoderOutput, Neck
    from wsi_pipeline.models.preprocess import UNIT_PIXELS
    from wsi_pipeline.models.sam import Sam, Variant

    class SmallEncoder(nn.Module):
        early_channels = 32

        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = nn.Conv2d(3, 32, 4, 4)
            self.blocks = nn.ModuleList([Block(ViTSize(32, 1, 2, ()), tokens=64, window=14)])
            self.neck = Neck(32)

        def forward(self, x: torch.Tensor) -> EncoderOutput:
            tokens = self.blocks[0](self.patch_embed(x).permute(0, 2, 3, 1))
            return EncoderOutput(self.neck(tokens), tokens)

    def build() -> Sam:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Sam(Variant("small", 256, UNIT_PIXELS, frozenset({"box"}), False, SmallEncoder)).eval()

    return build


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM cluster of one node: this machine."""
    if missing := [name for name in SLURM_COMMANDS if shutil.which(name) is None]:
        pytest.skip(f"SLURM is not installed: no {', '.join(missing)}")
    if os.getuid() != 0:
        pytest.skip("only root can start SLURM")
    with (Path(tempfile.gettempdir()) / "wsi-pipeline-slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two of them on one machine get into each other's way
        yield from _slurm_in(tmp_path_factory.mktemp("slurm"))


def _slurm_in(folder: Path) -> Iterator[None]:
    started = subprocess.run([SLURM / "start.sh", folder], capture_output=True, text=True, timeout=120)
    try:
        if started.returncode != 0:
            pytest.skip(f"SLURM does not start here: {started.stderr.strip()}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield
    finally:
        subprocess.run([SLURM / "stop.sh", folder], timeout=60)
