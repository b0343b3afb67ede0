"""Objects found in several tiles become one each, whatever the tiles, batches and order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsi_pipeline.segment.objects import SEAM_BOTTOM, SEAM_LEFT, SEAM_RIGHT, SEAM_TOP
from wsi_pipeline.stitching.seams import Conflict, find_conflicts, later_neighbours, resolve


def random_labels(seed: int, width: int, height: int, *, largest: int, count: int) -> np.ndarray:
    """4-connected objects with holes and ragged outlines; neighbours may touch."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int64)
    for value in range(1, count + 1):
        w, h = rng.integers(1, largest + 1, 2)
        x, y = rng.integers(0, width), rng.integers(0, height)
        shape = labels[y : y + h, x : x + w]
        shape[(shape == 0) & (rng.random(shape.shape) < 0.85)] = value
    parts = np.zeros_like(labels)
    for value in np.unique(labels[labels > 0]):
        found, _ = ndimage.label(labels == value)
        parts[found > 0] = found[found > 0] + parts.max()
    return parts


def relabelled(labels: np.ndarray) -> np.ndarray:
    """Labels in the order of first appearance, so that two images can be compared up to a renumbering."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(np.where(values == 0, -1, first)))
    return (order + (0 if 0 in values else 1))[inverse].reshape(labels.shape)


plans = st.tuples(st.integers(8, 30), st.integers(1, 15), st.integers(1, 4)).filter(lambda p: p[1] <= p[0] // 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 90), plans, st.integers(1, 60))
def test_stitched_labels_equal_the_true_labels(bench, seed, width, height, sizes, largest):
    size, overlap, block = sizes
    labels = random_labels(seed, width, height, largest=largest, count=12)
    plan = bench.make_plan(width, height, size=size, overlap=overlap, block=block)
    batches = bench.look_everywhere(labels, plan)
    instance, _ = bench.paint_all(batches, plan, bench.stitch(batches, plan), shard=37)
    np.testing.assert_array_equal(relabelled(instance), relabelled(labels))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 6), st.integers(5, 100))
def test_result_is_the_same_for_any_block_and_shard(bench, seed, noise, block, shard):
    labels = random_labels(seed, 80, 70, largest=30, count=14)
    results = []
    for used_block, used_shard in ((2, 32), (block, shard)):
        plan = bench.make_plan(80, 70, size=24, overlap=8, block=used_block)
        batches = disturbed(bench, bench.look_everywhere(labels, plan), seed, noise / 100)
        results.append(bench.paint_all(batches, plan, bench.stitch(batches, plan), shard=used_shard))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def disturbed(bench, batches, seed, share):
    """Masks with some pixels lost, another part in every tile, so that tiles disagree."""
    result = []
    for batch in batches:
        seen = []
        for i in range(len(batch)):
            x, y = batch.bbox[i, :2].tolist()
            rng = np.random.default_rng([seed, x, y, int(batch.tile[i])])
            mask = batch.mask(i) & (rng.random(batch.mask(i).shape) >= share)
            iou = round(float(batch.iou[i]), 1)  # many equal ones
            seen.append(bench.seen(x, y, mask, int(batch.tile[i]), int(batch.seam[i]), iou, int(batch.class_id[i])))
        result.append(bench.make_batch(seen))
    return result


def edges_of(bench, plan, seen, merge_iou=0.3):
    """Edges of objects given one by one; ids are 1, 2, … in the given order."""
    batch = bench.make_batch(seen)
    return find_conflicts(0, {0: batch}, plan, {0: np.arange(1, 1 + len(seen))}, merge_iou).tolist()


@pytest.fixture
def two_tiles(bench):
    """Tile 0 sees columns 0 … 19, tile 1 columns 12 … 31; cores meet at column 16."""
    plan = bench.make_plan(32, 20, size=20, overlap=8, block=2)
    assert [t.x for t in plan.tiles()] == [0, 12]
    return plan


def full(height, width):
    return np.ones((height, width), bool)


def test_object_seen_whole_by_both_tiles_stays_once_with_its_owner(bench, two_tiles):
    seen = [bench.seen(13, 4, full(5, 5), 0, 0, 0.5), bench.seen(13, 4, full(6, 5), 1, 0, 0.9)]
    assert edges_of(bench, two_tiles, seen) == [[1, 2, Conflict.SEEN_TWICE]]
    root = bench.stitch([bench.make_batch(seen)], two_tiles)
    assert root.tolist() == [0, 1, 0], "centre 15.5 lies in the core of tile 0, which outweighs the score"


def test_higher_score_wins_between_two_owners_and_the_earlier_tile_between_equals():
    edges = np.array([[1, 2, Conflict.SEEN_TWICE]])
    assert root_of(edges, owner=[True, True], iou=[0.5, 0.9]) == [0, 0, 2]
    assert root_of(edges, owner=[True, True], iou=[0.9, 0.9]) == [0, 1, 0]
    assert root_of(edges, owner=[False, True], iou=[0.9, 0.5]) == [0, 0, 2]
    assert root_of(edges, owner=[True, True], iou=[np.nan, 0.1]) == [0, 0, 2]


def test_piece_cut_by_the_seam_goes_when_the_neighbour_sees_the_whole(bench, two_tiles):
    seen = [bench.seen(15, 4, full(5, 5), 0, SEAM_RIGHT, 0.99), bench.seen(15, 4, full(5, 9), 1, 0, 0.6)]
    assert edges_of(bench, two_tiles, seen) == [[1, 2, Conflict.PIECE_OF]]
    assert bench.stitch([bench.make_batch(seen)], two_tiles).tolist() == [0, 0, 2]


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("piece_first", [True, False])
def test_poorly_drawn_sliver_inside_the_whole_goes_though_its_iou_is_low(bench, axis, piece_first):
    """Tile 0 ends at 20, tile 1 begins at 12, along x or y; the piece is cut by either."""
    width, height = (32, 20) if axis == "x" else (20, 32)
    plan = bench.make_plan(width, height, size=20, overlap=8, block=2)
    before, after = (SEAM_LEFT, SEAM_RIGHT) if axis == "x" else (SEAM_TOP, SEAM_BOTTOM)

    def seen(start, length, across, thick, tile, seam=0):
        mask = full(thick, length)
        return (
            bench.seen(start, across, mask, tile, seam)
            if axis == "x"
            else bench.seen(across, start, mask.T, tile, seam)
        )

    if piece_first:
        objects = [seen(18, 2, 6, 1, 0, after), seen(15, 9, 4, 5, 1)]
        expected = [1, 2, Conflict.PIECE_OF]
    else:
        objects = [seen(8, 9, 4, 5, 0), seen(12, 2, 6, 1, 1, before)]
        expected = [2, 1, Conflict.PIECE_OF]
    assert edges_of(bench, plan, objects) == [expected]


def test_whole_object_that_lies_inside_a_larger_whole_one_stays(bench, two_tiles):
    seen = [bench.seen(15, 6, full(2, 2), 0), bench.seen(14, 4, full(6, 9), 1)]
    assert edges_of(bench, two_tiles, seen) == []


def test_object_cut_by_both_tiles_becomes_one(bench, two_tiles):
    seen = [bench.seen(3, 4, full(5, 17), 0, SEAM_RIGHT), bench.seen(12, 4, full(5, 17), 1, SEAM_LEFT)]
    assert edges_of(bench, two_tiles, seen) == [[1, 2, Conflict.PARTS_OF_ONE]]
    batch = bench.make_batch(seen)
    instance, _ = bench.paint_all([batch], two_tiles, bench.stitch([batch], two_tiles), shard=64)
    assert np.unique(instance).tolist() == [0, 1]
    assert (instance == 1).sum() == 5 * 26


def test_stub_found_whole_does_not_replace_an_object_cut_elsewhere(bench, two_tiles):
    """Tile 0's object goes on to its left, where tile 1 sees nothing of it."""
    seen = [bench.seen(0, 4, full(5, 17), 0, SEAM_LEFT), bench.seen(13, 4, full(5, 4), 1, 0)]
    assert edges_of(bench, two_tiles, seen) == [[1, 2, Conflict.PARTS_OF_ONE]]


def test_objects_are_compared_only_where_both_tiles_look(bench, two_tiles):
    """The IoU of the whole masks would be 40 / 130; in the common columns it is 1."""
    seen = [bench.seen(1, 4, full(5, 19), 0, SEAM_RIGHT), bench.seen(12, 4, full(5, 8), 1, SEAM_LEFT)]
    assert edges_of(bench, two_tiles, seen, merge_iou=1.0) == [[1, 2, Conflict.PARTS_OF_ONE]]


@pytest.mark.parametrize(("shift", "expected"), [(2, 1), (3, 0)])
def test_merge_iou_is_the_least_overlap_of_one_object(bench, two_tiles, shift, expected):
    """5 px wide, shifted: IoU 3/7 and 2/8."""
    seen = [bench.seen(13, 4, full(4, 5), 0), bench.seen(13 + shift, 4, full(4, 5), 1)]
    assert len(edges_of(bench, two_tiles, seen, merge_iou=3 / 7)) == expected


def test_objects_of_one_tile_are_never_compared(bench, two_tiles):
    assert edges_of(bench, two_tiles, [bench.seen(13, 4, full(5, 5), 0), bench.seen(13, 4, full(5, 5), 0)]) == []


def test_every_pair_is_found_by_the_lower_batch_only(bench):
    labels = random_labels(3, 120, 120, largest=20, count=60)
    plan = bench.make_plan(120, 120, size=30, overlap=12, block=1)
    batches = bench.look_everywhere(labels, plan)
    ids = bench.ids(batches, plan)
    found = []
    for number in range(plan.n_batches):
        later = later_neighbours(number, plan)
        assert min(later, default=number + 1) > number
        edges = find_conflicts(number, {n: batches[n] for n in [number, *later]}, plan, dict(enumerate(ids)), 0.3)
        assert np.isin(edges[:, :2], ids[number]).any(axis=1).all()
        found += [tuple(sorted(pair)) for pair in edges[:, :2].tolist()]
    assert len(found) == len(set(found)) > 50


def root_of(edges, owner, iou):
    return resolve(np.array(edges).reshape(-1, 3), np.array(owner), np.array(iou, np.float32)).tolist()


def test_loser_of_a_loser_stays():
    """3 beats 2 and 2 beats 1, but 1 and 3 are different objects."""
    edges = [[1, 2, Conflict.SEEN_TWICE], [2, 3, Conflict.SEEN_TWICE]]
    assert root_of(edges, owner=[True] * 3, iou=[0.1, 0.2, 0.3]) == [0, 1, 0, 3]


def test_dropped_piece_does_not_join_others():
    edges = [[1, 2, Conflict.PARTS_OF_ONE], [2, 3, Conflict.PARTS_OF_ONE], [2, 4, Conflict.PIECE_OF]]
    assert root_of(edges, owner=[True] * 4, iou=[0.5] * 4) == [0, 1, 0, 3, 4]


def test_chain_of_parts_takes_the_smallest_number():
    edges = [[5, 4, Conflict.PARTS_OF_ONE], [4, 3, Conflict.PARTS_OF_ONE], [2, 5, Conflict.PARTS_OF_ONE]]
    assert root_of(edges, owner=[True] * 5, iou=[0.5] * 5) == [0, 1, 2, 2, 2, 2]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_resolve_does_not_depend_on_the_order_of_edges(data):
    n = data.draw(st.integers(2, 30))
    pair = st.tuples(st.integers(1, n), st.integers(1, n), st.sampled_from(list(Conflict))).filter(
        lambda e: e[0] != e[1]
    )
    edges = data.draw(st.lists(pair, max_size=60, unique_by=lambda e: frozenset(e[:2])))
    owner = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    iou = data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=n, max_size=n))
    other = data.draw(st.permutations(edges))
    root = root_of(edges, owner, iou)
    assert root_of(other, owner, iou) == root
    for a, b, kind in edges:
        if kind == Conflict.SEEN_TWICE:
            assert root[a] == 0 or root[b] == 0
        elif kind == Conflict.PIECE_OF:
            assert root[a] == 0
        elif root[a] and root[b]:
            assert root[a] == root[b]
    assert all(value == 0 or root[value] == value for value in root)


def test_no_objects_and_no_edges(bench, two_tiles):
    empty = bench.make_batch([])
    assert find_conflicts(0, {0: empty}, two_tiles, {0: np.zeros(0, np.int64)}, 0.3).shape == (0, 3)
    assert bench.stitch([empty], two_tiles).tolist() == [0]


@pytest.mark.slow
def test_a_million_objects_are_resolved_in_seconds_and_little_memory():
    import time
    import tracemalloc

    n = 1_000_000
    rng = np.random.default_rng(0)
    first = rng.integers(1, n, n)
    edges = np.column_stack([first, np.minimum(first + rng.integers(1, 4, n), n), rng.integers(0, 3, n)])
    edges = edges[edges[:, 0] != edges[:, 1]]
    # the worst case for anything that goes in rounds: one chain through half of the objects, each better than the last
    chain = np.column_stack([np.arange(1, n // 2), np.arange(2, n // 2 + 1), np.full(n // 2 - 1, Conflict.SEEN_TWICE)])
    owner, iou = np.ones(n, bool), np.linspace(0, 1, n, dtype=np.float32)
    tracemalloc.start()
    start = time.perf_counter()
    root = resolve(np.concatenate([edges, chain]), owner, iou)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(root) == n + 1
    assert seconds < 30
    assert peak < 500e6
