"""Windows of cells and the plan of decode calls."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.models.windows import CELLS, HALO, WINDOW_SIDES, Windows, plan_calls


@given(
    size=st.sampled_from([256, 1024]),
    corners=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=6),
    margin=st.floats(0, 1),
)
def test_window_holds_the_grown_box_and_stays_in_the_patch(size, corners, margin):
    xy = np.sort(np.array(corners).reshape(-1, 2, 2), axis=1).reshape(-1, 4) * size
    windows = Windows.around(xy, margin, size)
    cell = size / CELLS
    grow = margin * (xy[:, 2:] - xy[:, :2])
    first = windows.start * cell
    last = first + windows.side[:, None] * cell
    assert (first <= np.clip(xy[:, :2] - grow, 0, size - cell) + 1e-6).all()
    assert (last >= np.clip(xy[:, 2:] + grow, 0, size) - 1e-6).all()
    assert (first >= 0).all()
    assert (last <= size).all()
    assert np.isin(windows.side, WINDOW_SIDES).all()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from(list(WINDOW_SIDES))), min_size=1))
def test_drawn_window_has_a_halo_wherever_the_patch_goes_on(places):
    side = np.array([s for *_, s in places])
    start = np.minimum([(x, y) for x, y, _ in places], CELLS - side[:, None])
    drawn = Windows(start, side).drawn()
    end, drawn_end = start + side[:, None], drawn.start + drawn.side[:, None]
    assert ((start - drawn.start >= HALO) | (drawn.start == 0)).all()
    assert ((drawn_end - end >= HALO) | (drawn_end == CELLS)).all()
    assert (drawn.start >= 0).all()
    assert (drawn_end <= CELLS).all()


@given(
    prompts=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([4, 8, 64])), max_size=40),
    chunk=st.integers(1, 5),
    images=st.integers(1, 4),
)
def test_every_prompt_is_decoded_once_with_its_own_image_and_window(prompts, chunk, images):
    index = np.array([image for image, _ in prompts], np.int64)
    side = np.array([s for _, s in prompts], np.int64)
    calls = list(plan_calls(index, side, chunk, images))
    seen = np.concatenate([call.rows.ravel() for call in calls]) if calls else np.zeros(0, int)
    assert sorted(seen) == list(range(len(prompts)))
    for call in calls:
        assert call.rows.shape[0] == len(call.images) <= images
        assert call.rows.shape[1] <= chunk
        assert (index[call.rows] == call.images[:, None]).all()
        assert len(np.unique(side[call.rows])) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([4, 8])), min_size=1, max_size=30), st.integers(0, 3))
def test_one_image_at_a_time_is_decoded_the_same_whatever_else_is_asked(prompts, image):
    """The calls for an image are the same when its prompts come alone."""
    index = np.array([i for i, _ in prompts])
    side = np.array([s for _, s in prompts])
    own = np.flatnonzero(index == image)
    among_others = [call.rows[0] for call in plan_calls(index, side, 4, 1) if call.images[0] == image]
    alone = [own[call.rows[0]] for call in plan_calls(index[own], side[own], 4, 1)]
    assert [list(rows) for rows in among_others] == [list(rows) for rows in alone]
