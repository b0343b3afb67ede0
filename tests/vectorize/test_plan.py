from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.vectorize.chunks import ChunkGrid, trace_chunk
from wsi_pipeline.vectorize.plan import AssemblyPlan, Objects, plan_assembly


@pytest.mark.parametrize("objects", ["label", "component"])
def test_plan_is_the_same_after_saving_and_loading(objects: Objects, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint32)
    grid = ChunkGrid(30, 20, 8)
    outlines = []
    for index in range(len(grid)):
        x0, y0, x1, y1 = grid.read_bounds(index)
        outlines.append(trace_chunk(labels[y0:y1, x0:x1], grid, index))
    plan = plan_assembly((one.facts for one in outlines), objects)
    plan.save(tmp_path / "plan.arrow")
    loaded = AssemblyPlan.load(tmp_path / "plan.arrow")
    assert len(plan.owner) > 0
    for index in range(len(grid)):
        before, after = plan.task(index), loaded.task(index)
        assert after.objects == objects
        for name in ("shared", "chunk", "component", "region"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_chunk_without_objects_has_outlines_of_the_usual_kind() -> None:
    grid = ChunkGrid(16, 8, 8)
    labels = np.zeros((8, 16), np.uint32)
    labels[2:5, 2:6] = 7
    drawn, empty = (trace_chunk(labels[:, cut], grid, n) for n, cut in enumerate((slice(0, 9), slice(7, 16))))
    assert len(drawn.label) == 1
    for name in ("xy", "flags", "offset", "end", "component", "label", "contact_key", "contact_component"):
        assert getattr(empty, name).dtype == getattr(drawn, name).dtype
    assert len(plan_assembly([drawn.facts, empty.facts]).owner) == 0
