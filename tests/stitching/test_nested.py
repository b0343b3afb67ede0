"""Objects within objects: seen, told apart at seams, and put together whole."""

import numpy as np

from wsi_pipeline.stitching.paint import paint
from wsi_pipeline.stitching.seams import find_conflicts, owned, resolve
from wsi_pipeline.stitching.wholes import members_elsewhere, wholes_of

SOLID = np.ones((20, 20), bool)
SMALL = np.ones((6, 6), bool)


def test_the_smaller_object_is_seen_in_front_of_the_better_one(bench) -> None:
    batch = bench.make_batch([bench.seen(0, 0, SOLID, tile=0, iou=0.9), bench.seen(5, 5, SMALL, tile=0, iou=0.5)])
    ids, root = np.array([1, 2]), np.array([0, 1, 2], np.uint32)
    whole, _ = paint((0, 0, 20, 20), [batch], [ids], root, np.zeros(3, int))
    nested, _ = paint((0, 0, 20, 20), [batch], [ids], root, np.zeros(3, int), nested=True)
    assert np.unique(whole).tolist() == [1]
    assert np.count_nonzero(nested == 2) == SMALL.size
    assert np.count_nonzero(nested == 1) == SOLID.size - SMALL.size


def test_areas_are_those_of_the_masks(bench) -> None:
    shapes = [SMALL, np.eye(9, dtype=bool), SOLID]
    batch = bench.make_batch([bench.seen(0, 0, mask) for mask in shapes])
    assert batch.areas(np.array([2, 0, 1])).tolist() == [400, 36, 9]


def nucleus_in_gland(bench):
    """Two tiles that share 16 px: the gland lies whole in the second one, a nucleus of it is cut by the first."""
    plan = bench.make_plan(80, 48, size=48, overlap=16, block=1)
    assert plan.n_batches == 2
    piece = bench.seen(44, 20, np.ones((8, 4), bool), tile=0, seam=4, class_id=2)
    gland = bench.seen(38, 10, np.ones((30, 30), bool), tile=1, class_id=1)
    return plan, {0: bench.make_batch([piece]), 1: bench.make_batch([gland])}


def test_a_piece_of_a_nucleus_is_no_part_of_its_gland(bench) -> None:
    plan, batches = nucleus_in_gland(bench)
    ids = dict(enumerate(bench.ids(list(batches.values()), plan)))
    assert find_conflicts(0, batches, plan, ids, 0.3).tolist() == [[1, 2, 1]]
    assert find_conflicts(0, batches, plan, ids, 0.3, nested=True).tolist() == []


def test_pieces_of_one_object_in_two_batches_are_put_together_by_the_one_that_owns_it(bench) -> None:
    plan = bench.make_plan(80, 48, size=48, overlap=16, block=1)
    left = bench.seen(30, 10, np.ones((12, 18), bool), tile=0, seam=4)
    right = bench.seen(32, 10, np.ones((12, 30), bool), tile=1, seam=1)
    other = bench.seen(50, 30, SMALL, tile=1)
    batches = {0: bench.make_batch([left]), 1: bench.make_batch([right, other])}
    ids = dict(enumerate(bench.ids(list(batches.values()), plan)))
    edges = find_conflicts(0, batches, plan, ids, 0.3, nested=True)
    owner = np.concatenate([owned(batch, plan) for batch in batches.values()])
    root = resolve(edges, owner, np.full(3, 0.9, np.float32))
    assert root.tolist() == [0, 1, 1, 3]
    assert members_elsewhere(ids[0], root).tolist() == [2]
    assert members_elsewhere(ids[1], root).tolist() == []
    (whole,) = wholes_of(0, batches, ids, root)
    assert (whole.label, whole.xy) == (1, (30, 10))
    assert whole.mask.shape == (12, 32)
    assert whole.mask.all()
    (alone,) = wholes_of(1, {1: batches[1]}, {1: ids[1]}, root)
    assert (alone.label, alone.xy) == (3, (50, 30))
