"""What a worker needs to know about one slide, and what it keeps between tasks.

A job is small and travels with every task; the slide handle and the plan live once per worker process and are found
again by it. So do models, see ``worker_models``.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.arrays import load_arrays, save_arrays
from wsi_pipeline.geometry import PixelGrid
from wsi_pipeline.segment.objects import ObjectBatch
from wsi_pipeline.slides.info import SlideInfo
from wsi_pipeline.stitching.ids import object_ids
from wsi_pipeline.tiling.plan import TilePlan
from wsi_pipeline.workflow import Workflow

if TYPE_CHECKING:
    from wsi_pipeline.slides.slide import Slide
    from wsi_pipeline.stitching.ngff import MaskPyramid
    from wsi_pipeline.vectorize.chunks import ChunkGrid
    from wsi_pipeline.vectorize.plan import AssemblyPlan


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide's run.

    Attributes:
        info: the slide.
        mpp: µm per level-0 px that the user gave, or None.
        workflow: what to do.
        dtypes: precision of the model of each stage, ``fp32`` or ``bf16``; decided once for a run.
        fingerprint: of everything the results follow from.
        identity: of what decides which objects there are, and no more: their ids are made from it.
        grid: the working grid.
        classes: class names; an object's class id is an index into them, and 0 is no class.
        scratch: folder of intermediate files.
        output: folder of the slide's results.
        embeddings: folder of kept embeddings, or None.
        fits: patch pairs that fit in memory at once, where it was found out; None as long as it was never too many.
        recognised: classes whose probabilities every object gets, in their order; none without a recognise stage.
    """

    info: SlideInfo
    mpp: float | None
    workflow: Workflow
    dtypes: Mapping[str, str]
    fingerprint: str
    identity: str
    grid: PixelGrid
    classes: tuple[str | None, ...]
    scratch: Path
    output: Path
    embeddings: Path | None = None
    fits: int | None = None
    recognised: tuple[str, ...] = ()
    _packed: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = [getattr(self, one.name) for one in fields(self) if one.init]
        object.__setattr__(self, "_packed", pickle.dumps(values))

    def __reduce__(self) -> tuple[Any, ...]:
        """Packed once, not for every task and once more for every hand that it goes through."""
        return _unpacked, (self._packed,)

    def open(self) -> Slide:
        """This process's handle of the slide."""
        from wsi_pipeline.slides.slide import slide_handle

        return slide_handle(self.info.path, self.mpp)

    def batch_file(self, number: int) -> Path:
        return self.scratch / "objects" / f"{number:06d}.arrow"

    def seam_file(self, number: int) -> Path:
        return self.scratch / "seams" / f"{number:06d}.arrow"

    def outline_file(self, number: int) -> Path:
        return self.scratch / "outlines" / f"{number:06d}.arrow"

    def row_file(self, number: int) -> Path:
        return self.scratch / "rows" / f"{number:06d}.parquet"

    @property
    def plan_file(self) -> Path:
        return self.scratch / "plan.arrow"

    @property
    def seen_file(self) -> Path:
        return self.scratch / "seen.arrow"

    @property
    def first_file(self) -> Path:
        return self.scratch / "first.arrow"

    @property
    def objects_file(self) -> Path:
        return self.scratch / "objects.arrow"

    @property
    def assembly_file(self) -> Path:
        return self.scratch / "assembly.arrow"

    @property
    def pyramid(self) -> Path:
        return self.output / "masks.ome.zarr"

    @property
    def chunk_grid(self) -> ChunkGrid:
        """The pieces in which the instance labels are traced: the pyramid's shards."""
        from wsi_pipeline.vectorize.chunks import ChunkGrid

        return ChunkGrid(self.grid.width, self.grid.height, self.workflow.stitch.shard)

    @property
    def simplify_px(self) -> float:
        return self.workflow.vectorize.simplify / self.grid.mpp

    @property
    def min_area_px(self) -> float:
        return self.workflow.vectorize.min_area / self.grid.mpp**2

    @property
    def fill_holes_px(self) -> float:
        return self.workflow.vectorize.fill_holes / self.grid.mpp**2


@lru_cache(maxsize=16)
def _unpacked(packed: bytes) -> SlideJob:
    return SlideJob(*pickle.loads(packed))  # noqa: S301 - it comes from the coordinator, as the task does


def save_plan(plan: TilePlan, path: Path) -> None:
    """Keep the choice of tiles; all else about a plan follows from the job."""
    numbers = {name: np.asarray(getattr(plan, name)) for name in ("size", "overlap", "block")}
    save_arrays(path, {"keep": plan.keep} | numbers)


@lru_cache(maxsize=4)
def _load_plan(path: Path, grid: PixelGrid, fingerprint: str) -> TilePlan:
    plan = load_arrays(path)
    return TilePlan(grid, int(plan["size"]), int(plan["overlap"]), plan["keep"], int(plan["block"]))


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What became of all n objects of a slide, by global id (row 0 is nobody).

    Attributes:
        root: (n + 1,) uint32 final id, 0 for dropped ones.
        class_id: (n + 1,) int16.
        iou, stability, detection: (n + 1,) float32.
        tile: (n + 1,) int32, -1 in prompted runs.
        refined: (n + 1,) uint8, as of ``ObjectBatch``.
        first: (tiles or batches,) int64, global id of the first object of every tile; in prompted runs of every batch.
    """

    root: np.ndarray
    class_id: np.ndarray
    iou: np.ndarray
    stability: np.ndarray
    detection: np.ndarray
    tile: np.ndarray
    refined: np.ndarray
    first: np.ndarray

    def ids_of(self, batch: ObjectBatch, number: int) -> np.ndarray:
        """(N,) int64 global ids of the objects of batch ``number``."""
        if len(batch) and batch.tile[0] < 0:
            return np.asarray(self.first[number] + np.arange(len(batch)))
        return object_ids(batch, self.first)

    def save(self, path: Path) -> None:
        save_arrays(path, {f.name: getattr(self, f.name) for f in fields(self)})


def save_seen(seen: np.ndarray, path: Path) -> None:
    """Keep what a model saw of the whole slide, float32, one row for each patch it looked at."""
    save_arrays(path, {"seen": seen})


@lru_cache(maxsize=4)
def _load_seen(path: Path, fingerprint: str) -> np.ndarray:
    return load_arrays(path)["seen"]


def save_first(first: np.ndarray, path: Path) -> None:
    """Keep the (tiles,) global ids of the first objects of every tile, see ``stitching.ids``."""
    save_arrays(path, {"first": first})


@lru_cache(maxsize=1)
def _load_first(path: Path, fingerprint: str) -> np.ndarray:
    return load_arrays(path)["first"]


@lru_cache(maxsize=1)
def _load_assembly(path: Path, fingerprint: str) -> AssemblyPlan:
    from wsi_pipeline.vectorize.plan import AssemblyPlan

    return AssemblyPlan.load(path)


@lru_cache(maxsize=1)
def _load_objects(path: Path, fingerprint: str) -> ObjectFacts:
    return ObjectFacts(**load_arrays(path))


@lru_cache(maxsize=4)
def _open_pyramid(path: Path, fingerprint: str) -> MaskPyramid:
    from wsi_pipeline.stitching.ngff import MaskPyramid

    return MaskPyramid.open(path)


# A worker of a standing cluster outlives runs, and files of the same names are written anew after a change of settings:
# so what it keeps of them is kept under the run's fingerprint, too.


def plan_of(job: SlideJob) -> TilePlan:
    """The plan ``save_plan`` kept."""
    return _load_plan(job.plan_file, job.grid, job.fingerprint)


def seen_of(job: SlideJob) -> np.ndarray:
    """What ``save_seen`` kept."""
    return _load_seen(job.seen_file, job.fingerprint)


def first_of(job: SlideJob) -> np.ndarray:
    """What ``save_first`` kept."""
    return _load_first(job.first_file, job.fingerprint)


def assembly_of(job: SlideJob) -> AssemblyPlan:
    """Which chunk puts together which object, as ``tasks.plan_outlines`` kept it."""
    return _load_assembly(job.assembly_file, job.fingerprint)


def objects_of(job: SlideJob) -> ObjectFacts:
    """What ``ObjectFacts.save`` kept."""
    return _load_objects(job.objects_file, job.fingerprint)


def pyramid_of(job: SlideJob) -> MaskPyramid:
    """This process's handle of the job's mask pyramid."""
    return _open_pyramid(job.pyramid, job.fingerprint)
