"""Slides without pixels: the stages of a dense run, with tasks that return facts like theirs and do nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

from wsi_pipeline.geometry import Affine2D, PixelGrid, Region, Resolution
from wsi_pipeline.run import slide, tissue_only
from wsi_pipeline.run.job import SlideJob
from wsi_pipeline.run.walk import RunContext, SlideTask, Walk
from wsi_pipeline.slides.info import SlideInfo

CORE = 208
"""px of a tile that are its own: 256 px that share 48 with their neighbours."""
TISSUE = 1 / 3
"""Share of a slide that has tiles."""
COARSEST = 1024
"""px of the last level of the pyramid."""
OBJECTS = 40
"""Found on every tile."""
NEAR = 8
"""Batches that meet a shard."""
EXPORTS = 3
"""Tasks of the last stage."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a slide without pixels looks like.

    Attributes:
        tiles: on tissue; without any only tissue is looked for and files are exported.
        seconds: that a batch of tiles takes.
        batch: tiles of a task, ``tiling.batch`` of a workflow.
        shard: px of the side of a shard of the pyramid, ``stitch.shard`` of a workflow.
    """

    tiles: int
    seconds: float = 0.0
    batch: int = 16
    shard: int = 2048

    @property
    def side(self) -> int:
        """px of the slide."""
        return round((self.tiles * CORE**2 / TISSUE) ** 0.5)

    @property
    def batches(self) -> int:
        return -(-self.tiles // self.batch)

    @property
    def shards(self) -> list[int]:
        """Of every level, finest first."""
        sides = [self.side]
        while sides[-1] > COARSEST:
            sides.append(-(-sides[-1] // 2))
        return [(-(-side // self.shard)) ** 2 for side in sides]

    @property
    def tasks(self) -> int:
        """Of all stages together."""
        dense = 2 * self.batches + sum(self.shards) + 2 * self.shards[0] + 2
        return 1 + EXPORTS + (dense if self.tiles else 0)


@contextmanager
def without_pixels(shape: Shape) -> Iterator[None]:
    """Have every run of the workflow ``tissue`` walk the stages of ``shape`` instead."""

    def opened(task: SlideTask, context: RunContext) -> SlideInfo:
        return _info(task, shape)

    with ExitStack() as stack:
        stack.enter_context(patch.object(slide, "_open", opened))
        stack.enter_context(patch.object(tissue_only, "run", lambda walk: walk_stages(walk, shape)))
        yield


def _info(task: SlideTask, shape: Shape) -> SlideInfo:
    return SlideInfo(
        path=task.source,
        name=task.id,
        width=shape.side,
        height=shape.side,
        resolution=Resolution(0.5, 0.5),
        mpp_source="property",
        bounds=Region(0, 0, shape.side, shape.side),
        has_bounds=False,
        level_sizes=tuple((shape.side >> level, shape.side >> level) for level in range(0, 8, 2)),
        reader="openslide",
        vendor="aperio",
        fingerprint=sha256(task.source.encode()).hexdigest()[:16],
    )


def walk_stages(walk: Walk, shape: Shape) -> int:
    """The stages of ``run.dense`` in their order; returns the number of objects."""
    grid = PixelGrid(shape.side, shape.side, Affine2D(1, 1, 0, 0), 0.5)
    job = walk.job(grid, (None, "Nucleus"))
    walk.once("tissue", find, job)
    objects = _walk_tiles(walk, job, shape) if shape.tiles else 0
    walk.together("export", [(find, job)] * EXPORTS)
    return objects


def _walk_tiles(walk: Walk, job: SlideJob, shape: Shape) -> int:
    batches, shards = shape.batches, shape.shards
    asked = ((number, (job, number, shape)) for number in range(batches))
    found = walk.stage("segment", segment, asked, batches, model=True)
    walk.stage("seams", leave_file, _numbered(job, batches), batches)
    walk.once("resolve", find, job)
    near = list(range(min(batches, NEAR)))
    walk.stage("stitch", stitch, ((number, (job, number, near)) for number in range(shards[0])), shards[0])
    for level, count in enumerate(shards[1:], start=1):
        walk.stage(f"level {level}", leave_file, _numbered(job, count), count)
    walk.stage("trace", leave_file, _numbered(job, shards[0]), shards[0])
    walk.once("assemble", find, job)
    rows = ((number, (job, number, shape.batch)) for number in range(shards[0]))
    walk.stage("outline", write_rows, rows, shards[0])
    return sum(facts["objects"] for facts in found.values())


def _numbered(job: SlideJob, count: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    return ((number, (job, number)) for number in range(count))


def find(job: SlideJob) -> None:
    """In the place of a stage that is one task."""


def segment(job: SlideJob, number: int, shape: Shape) -> dict[str, Any]:
    """In the place of ``tasks.segment_tiles``."""
    time.sleep(shape.seconds)
    first = number * shape.batch
    tiles = list(range(first, min(first + shape.batch, shape.tiles)))
    return {
        "objects": len(tiles) * OBJECTS,
        "tiles": tiles,
        "counts": [OBJECTS] * len(tiles),
        "bounds": [number * CORE, 0, number * CORE + 4 * CORE, 4 * CORE],
        "seconds": {"read": 0.1234, "model": shape.seconds, "other": 0.0123},
        "patches": {"encoded": len(tiles), "recalled": 0},
    }


def leave_file(job: SlideJob, number: int) -> dict[str, Any]:
    """In the place of a task that only leaves a file."""
    return {}


def stitch(job: SlideJob, number: int, batches: list[int]) -> dict[str, Any]:
    """In the place of ``tasks.stitch_shard``."""
    return {}


def write_rows(job: SlideJob, number: int, tiles: int) -> dict[str, Any]:
    """In the place of ``tasks.write_rows``."""
    return {"objects": OBJECTS * tiles}


def touch_slides(folder: Path, count: int) -> None:
    """Files that are slides by their names."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"slide-{number:05d}.svs").touch()
