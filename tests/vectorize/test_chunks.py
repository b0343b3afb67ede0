from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsi_pipeline.vectorize.arrays import vectorize_array
from wsi_pipeline.vectorize.assemble import assemble_chunk
from wsi_pipeline.vectorize.chunks import ChunkFacts, ChunkGrid, ChunkOutlines, trace_chunk
from wsi_pipeline.vectorize.plan import plan_assembly

IMAGES = st.tuples(
    st.integers(1, 45), st.integers(1, 45), st.integers(1, 6), st.sampled_from([0.0, 0.6, 1.0, 2.5]), st.integers(0)
)

SMALL_IMAGES = st.tuples(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.sampled_from([0.0, 0.6, 1.0]), st.integers(0)
)


def rows(parts) -> list[tuple[int, bytes]]:
    """Label and exact coordinates of all objects, in an order of their own."""
    return sorted((int(n), g.wkb) for part in parts for n, g in zip(part.label, part.geometry, strict=True))


@given(IMAGES, st.integers(5, 50), st.sampled_from(["label", "component"]))
@settings(max_examples=50, deadline=None)
def test_chunk_size_changes_nothing(random_labels, in_chunks, spec, size, objects):
    labels = random_labels(*spec)
    assert rows(in_chunks(labels, size, objects)) == rows([vectorize_array(labels, objects)])


@given(SMALL_IMAGES, st.integers(1, 4), st.sampled_from(["label", "component"]))
@settings(max_examples=40, deadline=None)
def test_tiny_chunks_change_nothing(random_labels, in_chunks, spec, size, objects):
    labels = random_labels(*spec)
    assert rows(in_chunks(labels, size, objects)) == rows([vectorize_array(labels, objects)])


@given(IMAGES, st.integers(5, 50))
@settings(max_examples=25, deadline=None)
def test_chunk_size_changes_nothing_with_small_parts_left_out(random_labels, in_chunks, spec, size):
    labels = random_labels(*spec)
    areas = {"min_area": 5.0, "fill_holes": 3.0}
    assert rows(in_chunks(labels, size, **areas)) == rows([vectorize_array(labels, **areas)])


@given(IMAGES, st.integers(5, 50))
@settings(max_examples=30, deadline=None)
def test_polygons_of_chunks_rasterise_to_the_same_pixels(random_labels, rasterised, in_chunks, spec, size):
    labels = random_labels(*spec)
    parts = in_chunks(labels, size)
    ids = np.concatenate([part.label for part in parts])
    polygons = np.concatenate([part.geometry for part in parts])
    assert len(np.unique(ids)) == len(ids)
    assert shapely.is_valid(polygons).all()
    assert np.array_equal(rasterised(polygons, ids, labels.shape), labels)


@given(SMALL_IMAGES, st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_components_of_a_class_are_those_of_scipy(random_labels, in_chunks, spec, size):
    labels = random_labels(*spec)
    found = {(label, wkb) for label, wkb in rows(in_chunks(labels, size, "component"))}
    expected = set()
    for label in np.unique(labels[labels > 0]):
        numbered, count = ndimage.label(labels == label)
        for number in range(1, count + 1):
            one = vectorize_array(numbered == number)
            expected.add((int(label), one.geometry[0].wkb))
    assert found == expected


@pytest.mark.parametrize("size", [3, 7, 10, 20, 39])
def test_hole_spanning_chunks_stays_a_hole(in_chunks, size):
    labels = np.ones((40, 40), np.uint32)
    labels[5:35, 5:35] = 0
    labels[15:25, 15:25] = 1
    outer, island = np.concatenate([part.geometry for part in in_chunks(labels, size, "component")])
    assert outer.equals(shapely.box(0, 0, 40, 40) - shapely.box(5, 5, 35, 35))
    assert island.equals(shapely.box(15, 15, 25, 25))


def test_hole_inside_one_chunk_of_a_larger_object(in_chunks):
    labels = np.ones((30, 30), np.uint32)
    labels[14:16, 14:16] = 0  # in chunk 4 of 9, whose border the object crosses without an outline
    parts = in_chunks(labels, 10)
    assert [len(part) for part in parts] == [1] + [0] * 8
    assert parts[0].geometry[0].equals(shapely.box(0, 0, 30, 30) - shapely.box(14, 14, 16, 16))


def test_parts_of_an_instance_far_apart_are_one_object(in_chunks):
    labels = np.zeros((30, 30), np.uint32)
    labels[2:4, 25:27] = 7
    labels[25:27, 2:4] = 7
    parts = in_chunks(labels, 10)
    assert [len(part) for part in parts] == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert parts[2].geometry[0].geom_type == "MultiPolygon"


def test_objects_of_a_chunk_are_sorted_by_label_then_place(in_chunks):
    rng = np.random.default_rng(0)
    for part in in_chunks(rng.integers(0, 4, (40, 40)), 13, "component"):
        first = shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(part.geometry), 0))
        order = np.lexsort((first[:, 0], first[:, 1], part.label))
        assert np.array_equal(order, np.arange(len(part)))


def test_files_give_the_same_and_facts_read_alone(tmp_path, random_labels):
    labels = random_labels(30, 41, 5, 1.0, 3)
    grid = ChunkGrid(41, 30, 16)
    for index in range(len(grid)):
        x0, y0, x1, y1 = grid.read_bounds(index)
        trace_chunk(labels[y0:y1, x0:x1], grid, index).save(tmp_path / f"{index}.arrow")
    plan = plan_assembly(ChunkFacts.load(path) for path in sorted(tmp_path.glob("*.arrow")))

    def load(index: int) -> ChunkOutlines:
        return ChunkOutlines.load(tmp_path / f"{index}.arrow")

    parts = [assemble_chunk(plan.task(index), load) for index in range(len(grid))]
    assert rows(parts) == rows([vectorize_array(labels)])
    assert not list(tmp_path.glob("*.partial"))


def test_only_chunks_an_object_reaches_into_are_loaded(random_labels):
    labels = np.zeros((40, 40), np.uint32)
    labels[3:12, 3:6] = 1  # chunks 0 and 4 of 16
    labels[35, 35] = 2
    grid = ChunkGrid(40, 40, 10)
    outlines = []
    for index in range(len(grid)):
        x0, y0, x1, y1 = grid.read_bounds(index)
        outlines.append(trace_chunk(labels[y0:y1, x0:x1], grid, index))
    plan = plan_assembly([o.facts for o in outlines])
    loaded: list[int] = []

    def load(index: int) -> ChunkOutlines:
        loaded.append(index)
        return outlines[index]

    assemble_chunk(plan.task(0), load)
    assert loaded == [0, 4]
    loaded.clear()
    assert len(assemble_chunk(plan.task(4), load)) == 0
    assert loaded == [4]


def test_chunks_cover_the_image_once():
    grid = ChunkGrid(25, 12, 10)
    cover = np.zeros((12, 25), int)
    for index in range(len(grid)):
        x0, y0, x1, y1 = grid.bounds(index)
        cover[y0:y1, x0:x1] += 1
    assert (cover == 1).all()
    assert grid.read_bounds(0) == (0, 0, 11, 11)
    assert grid.read_bounds(4) == (9, 9, 21, 12)
    with pytest.raises(IndexError):
        grid.bounds(6)


def test_wrong_part_of_the_image_is_refused():
    with pytest.raises(ValueError, match=r"chunk 0 are \(10, 10\), not \(11, 11\)"):
        trace_chunk(np.zeros((10, 10), np.uint8), ChunkGrid(30, 30, 10), 0)


def test_chunks_of_different_labels_are_refused():
    grid = ChunkGrid(20, 10, 10)
    one, two = np.ones((10, 11), np.uint8), np.ones((10, 11), np.uint8)
    two[4:6] = 0
    outlines = [trace_chunk(one, grid, 0), trace_chunk(two, grid, 1)]
    with pytest.raises(ValueError, match="do not fit together"):
        plan_assembly([o.facts for o in outlines])
    with pytest.raises(ValueError, match="do not fit together"):
        plan_assembly([outlines[0].facts])
