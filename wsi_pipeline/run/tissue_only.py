"""Finding the tissue: the first stage of every run, and the whole of a workflow without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from wsi_pipeline.export.measurements import measure_shapes
from wsi_pipeline.export.table import object_table
from wsi_pipeline.qupath.classes import ARTEFACT, REGION
from wsi_pipeline.run.job import SlideJob
from wsi_pipeline.run.rows import stable_id
from wsi_pipeline.run.walk import Walk
from wsi_pipeline.tissue.detect import find_tissue
from wsi_pipeline.tissue.mask import TissueMask
from wsi_pipeline.tissue.outlines import outlines

if TYPE_CHECKING:
    from wsi_pipeline.slides.info import SlideInfo


def tissue_of(walk: Walk) -> TissueMask:
    """The slide's tissue, found by a worker, with its warnings noted."""
    tissue: TissueMask = walk.once("tissue", _find, walk.info.path, walk.task.mpp, walk.workflow.tissue)
    walk.warnings += tissue.warnings
    return tissue


@dataclass(frozen=True, slots=True)
class Survey:
    """What a dense run has to know of the tissue; the masks, of up to 64 million px each, stay on the worker.

    Attributes:
        keep: (rows, cols) bool, tiles on tissue, see ``TilePlan``.
        rows: tissue and artefacts as rows of annotations.
        warnings: one line each.
    """

    keep: np.ndarray
    rows: pa.Table
    warnings: tuple[str, ...]


def survey(job: SlideJob, size: int, overlap: int) -> Survey:
    """Find the tissue, and the tiles of ``size`` px with ``overlap`` px in common that lie on it."""
    tissue = _find(job.info.path, job.mpp, job.workflow.tissue)
    keep = tissue.keep_tiles(job.grid, size, overlap, job.workflow.tiling.min_tissue)
    return Survey(keep, tissue_rows(tissue, job.info, job.identity), tissue.warnings)


def _find(path: str, mpp: float | None, settings: object) -> TissueMask:
    from wsi_pipeline.slides.slide import slide_handle

    return find_tissue(slide_handle(path, mpp), settings)  # type: ignore[arg-type]


def tissue_rows(tissue: TissueMask, info: SlideInfo, identity: str) -> pa.Table:
    """Tissue pieces (``Region*``) and artefacts (``Artefact*``) as rows of annotations."""
    found = outlines(tissue)
    geometry = np.array([outline.geometry for outline in found], object)
    return object_table(
        geometry,
        id=[stable_id(identity, "tissue", number) for number in range(len(found))],
        **{"class": [outline.class_name for outline in found]},
        name=[outline.name for outline in found],
        object_type="annotation",
        **measure_shapes(geometry, info.resolution),
    )


def run(walk: Walk) -> int:
    """A workflow without a model: tissue and artefacts as annotations and as a class pyramid."""
    from wsi_pipeline.run.finish import export, new_pyramid, write_levels

    tissue = tissue_of(walk)
    job = walk.job(tissue.grid, (None, REGION, ARTEFACT))
    new_pyramid(job, {})
    instance, class_ = _labels(tissue)
    _write_array(job, instance, class_)
    write_levels(walk, job)
    rows = tissue_rows(tissue, walk.info, walk.identity)
    report = export(walk, job, [], rows)
    return report.objects


def _labels(tissue: TissueMask) -> tuple[np.ndarray, np.ndarray]:
    from skimage.measure import label

    class_ = tissue.tissue.astype(np.uint8)
    for artefact in tissue.artefacts.values():
        class_[artefact] = 2
    return label(class_, connectivity=1, background=0).astype(np.uint32), class_


def _write_array(job: SlideJob, instance: np.ndarray, class_: np.ndarray) -> None:
    from wsi_pipeline.stitching.ngff import MaskPyramid

    pyramid = MaskPyramid.open(job.pyramid)
    for row, col in pyramid.shards(0):
        x0, y0, x1, y1 = pyramid.shard_region(0, row, col)
        pyramid.write_shard(row, col, instance[y0:y1, x0:x1], class_[y0:y1, x0:x1], None)
