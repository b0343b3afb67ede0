"""From polygons and scores to rows of the object table."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from wsi_pipeline.arrays import load_arrays
from wsi_pipeline.export.measurements import measure_shapes
from wsi_pipeline.export.table import object_table, pack_color
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.run.job import ObjectFacts, SlideJob, plan_of
from wsi_pipeline.segment.objects import ObjectBatch
from wsi_pipeline.stitching.wholes import Whole
from wsi_pipeline.vectorize.arrays import vectorize_array
from wsi_pipeline.vectorize.polygons import VectorObjects

_NAMESPACE = uuid.UUID("b1f0a8f2-6d0c-4a57-9c1e-0b6f6d1f7a35")


def stable_id(*parts: object) -> str:
    """A UUID that is the same whenever the parts are."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(str(part) for part in parts)))


def rows_of_labels(job: SlideJob, found: VectorObjects, facts: ObjectFacts) -> pa.Table:
    """Rows of objects traced from the instance labels; polygons in px of the working grid."""
    return _rows_of_found(job, found.label, shapely.transform(found.geometry, job.grid.to_level0.apply), facts)


def _rows_of_found(job: SlideJob, label: np.ndarray, geometry: np.ndarray, facts: ObjectFacts) -> pa.Table:
    return _table(
        job,
        geometry,
        _probabilities_of(job, label, facts),
        id=[stable_id(job.identity, value) for value in label.tolist()],
        label=label,
        object_type=job.workflow.export.object_type,
        **{"class": _class_names(job, facts.class_id[label])},
        predicted_iou=facts.iou[label],
        stability=facts.stability[label],
        detection=facts.detection[label],
        tile=facts.tile[label],
    )


def rows_of_wholes(job: SlideJob, wholes: Sequence[Whole], facts: ObjectFacts) -> pa.Table:
    """Rows of objects of a nested run, each traced by itself."""
    outlines = [_outline(job, whole.mask, whole.xy) for whole in wholes]
    kept = [row for row, outline in enumerate(outlines) if not outline.is_empty]
    label = np.array([wholes[row].label for row in kept], np.int64)
    return _rows_of_found(job, label, np.array([outlines[row] for row in kept], object), facts)


def rows_of_prompts(job: SlideJob, batch: ObjectBatch, ids: np.ndarray, prompts: Sequence[Prompt]) -> pa.Table:
    """Rows of the answers to prompts: id, name, colour, lock and metadata are those of the prompt."""
    by_id = {prompt.id: prompt for prompt in prompts}
    asked = [by_id[str(name)] for name in batch.prompt_id]
    if job.workflow.draws:
        geometry = [_outline(job, batch.mask(index), batch.bbox[index, :2]) for index in range(len(batch))]
        scores = {"predicted_iou": batch.iou, "stability": batch.stability}
    else:  # outlines come back as they were given, and nobody predicted them
        geometry, scores = [prompt.geometry for prompt in asked], {}
    kept = np.array([not shape.is_empty for shape in geometry], bool)
    rows = _table(
        job,
        np.array(geometry, object),
        batch.probabilities,
        id=[_as_uuid(prompt.id) for prompt in asked],
        label=ids,
        object_type=[prompt.object_type for prompt in asked],
        name=[prompt.name for prompt in asked],
        **{"class": _class_names(job, batch.class_id)},
        **scores,
        prompt_id=[prompt.source_id for prompt in asked],
        color=[pack_color(prompt.color) for prompt in asked],
        locked=[prompt.locked for prompt in asked],
        metadata=[json.dumps(dict(prompt.metadata)) if prompt.metadata else None for prompt in asked],
    )
    return rows.filter(pa.array(kept))


def _table(job: SlideJob, geometry: np.ndarray, probabilities: np.ndarray, **columns: Any) -> pa.Table:
    if job.workflow.export.measurements:
        columns |= measure_shapes(geometry, job.info.resolution)
    by_class = dict(zip(job.recognised, probabilities.T, strict=True))
    return object_table(geometry, by_class, **columns)


def _probabilities_of(job: SlideJob, label: np.ndarray, facts: ObjectFacts) -> np.ndarray:
    """(N, C) float32 probabilities of objects by final id, read from the batches that found them."""
    told = np.empty((len(label), len(job.recognised)), np.float32)
    if not job.recognised:
        return told
    tile = facts.tile[label].astype(np.int64)
    number = plan_of(job).batches_of(tile)
    place = label.astype(np.int64) - facts.first[tile]  # among the objects of its tile
    for one in np.unique(number).tolist():
        stored, mine = load_arrays(job.batch_file(one), ["tile", "probabilities"]), number == one
        told[mine] = stored["probabilities"][np.searchsorted(stored["tile"], tile[mine]) + place[mine]]
    return told


def _class_names(job: SlideJob, class_id: np.ndarray) -> list[str | None]:
    return [job.classes[index] for index in class_id.tolist()]


def _outline(job: SlideJob, mask: np.ndarray, xy: Sequence[int] | np.ndarray) -> shapely.Geometry:
    """The outline, level-0 px, of a mask whose corner is at ``xy`` of the working grid; empty if nothing is left."""
    found = vectorize_array(mask, tolerance=job.simplify_px, min_area=job.min_area_px, fill_holes=job.fill_holes_px)
    if not len(found):
        return shapely.Polygon()
    x, y = (float(v) for v in xy)
    return shapely.transform(found.geometry[0], job.grid.to_level0.shifted(x, y).apply)


def _as_uuid(text: str) -> str:
    """QuPath keeps an id only if it is a UUID; anything else gets one made from it."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return stable_id(text)
