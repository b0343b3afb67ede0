"""What becomes of every object of a dense run, decided at once from what ``tasks.find_seams`` left of every batch."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.arrays import load_arrays
from wsi_pipeline.geometry import Region
from wsi_pipeline.run.job import ObjectFacts, SlideJob, first_of
from wsi_pipeline.stitching.seams import resolve

_COLUMNS = {
    "iou": np.float32,
    "stability": np.float32,
    "detection": np.float32,
    "class_id": np.int16,
    "tile": np.int32,
    "refined": np.uint8,
}


def resolve_objects(job: SlideJob, n_batches: int, n_objects: int, roi: Region | None) -> None:
    """Write the job's ``ObjectFacts``; a few dozen bytes per object are held, never a mask.

    Args:
        job: the slide's run.
        n_batches: batches of the plan.
        n_objects: found by all of them.
        roi: level-0 px; objects that have their centre elsewhere are dropped.
    """
    owner, inside = np.zeros(n_objects + 1, bool), np.ones(n_objects + 1, bool)
    columns = {name: np.zeros(n_objects + 1, dtype) for name, dtype in _COLUMNS.items()}
    columns["tile"][0] = -1
    edges = [np.zeros((0, 3), np.int64)]
    for number in range(n_batches):
        seams = load_arrays(job.seam_file(number))
        ids = seams["ids"]
        owner[ids] = seams["owner"]
        edges.append(seams["edges"])
        for name, column in columns.items():
            column[ids] = seams[name]
        if roi is not None:
            inside[ids] = _inside(job.grid.to_level0.apply(seams["center"]), roi)
    root = resolve(np.concatenate(edges), owner[1:], columns["iou"][1:])
    root[~inside[root]] = 0
    ObjectFacts(root=root, first=first_of(job), **columns).save(job.objects_file)


def _inside(xy: np.ndarray, roi: Region) -> np.ndarray:
    x0, y0, x1, y1 = roi.bounds
    return np.asarray((xy >= (x0, y0)).all(axis=1) & (xy < (x1, y1)).all(axis=1))
