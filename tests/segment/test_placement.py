from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.geometry import Affine2D, PixelGrid
from wsi_pipeline.prompts.prompt import Prompt
from wsi_pipeline.segment.placement import CONTEXT, Placement, group_prompts

GRID = PixelGrid(4000, 3000, Affine2D(2.0, 2.0, 100.0, 60.0), 0.5)


def box_prompt(x: float, y: float, side: float, name: str = "a") -> Prompt:
    """A square prompt around a px of GRID, its side in px of GRID."""
    corners = GRID.to_level0.apply(np.array([[x - side / 2, y - side / 2], [x + side / 2, y + side / 2]]))
    return Prompt(name, "box", shapely.box(*corners.ravel()))


def placement(grid: PixelGrid = GRID, share: float = 0.5, size: int = 256) -> Placement:
    return Placement(grid, size, share, 2.0)


@pytest.mark.parametrize(
    ("side", "step"), [(10, -1), (64, -1), (65, 0), (128, 0), (129, 1), (256, 1), (1024, 3), (1025, 4)]
)
def test_the_ladder_step_is_the_finest_at_which_the_object_leaves_its_share(side: float, step: int) -> None:
    assert placement().step_of(box_prompt(900, 900, side)) == step


@pytest.mark.parametrize(("scale", "finest"), [(1.0, 0), (2.0, -1), (1.97, -1), (1.5, 0), (4.0001, -2), (0.5, 1)])
def test_no_step_asks_for_finer_pixels_than_the_slide_has(scale: float, finest: int) -> None:
    grid = PixelGrid(100, 100, Affine2D(scale, scale), 0.5)
    assert placement(grid).finest_step == finest


def test_a_point_is_asked_about_at_the_working_resolution_first() -> None:
    point = Prompt("p", "point", shapely.Point(500, 500), positive=np.array([[500.0, 500.0]]))
    assert placement().step_of(point) == 0
    far = Prompt("p", "point", shapely.MultiPoint([(500, 500), (1500, 500)]), np.array([[500.0, 500], [1500, 500]]))
    assert placement().step_of(far) == 2


@settings(deadline=None, max_examples=100)
@given(
    st.floats(-50, 4050),
    st.floats(-50, 3050),
    st.floats(0.5, 5000),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    st.integers(0, 2),
)
def test_the_pair_holds_the_object_with_its_context(x: float, y: float, side: float, share: float, grown: int) -> None:
    rules = placement(share=share)
    prompt = box_prompt(x, y, side)
    key = rules.pair_of(prompt, rules.step_of(prompt) + grown)
    box = rules.to_patch(key).apply(np.reshape(prompt.box, (2, 2))).ravel()
    context = CONTEXT * 256 if share <= 0.5 or grown else 0
    rounding = max(1, 2.0**-key.step)  # corners stand on whole px of the grid
    assert (box[:2] >= context - rounding).all()
    assert (box[2:] <= 256 - context + rounding).all()
    pair = rules.pair(key)
    np.testing.assert_allclose(
        pair.high.apply(box.reshape(2, 2)).ravel(), np.ravel(prompt.box), atol=1e-6 * max(1, side)
    )


def test_an_object_that_fills_its_patch_is_in_the_middle() -> None:
    rules = placement(share=1.0)
    prompt = box_prompt(777, 555, 250)
    box = rules.to_patch(rules.pair_of(prompt, 0)).apply(np.reshape(prompt.box, (2, 2)))
    np.testing.assert_allclose(box.mean(axis=0), [128, 128], atol=0.5)


def test_neighbours_share_a_pair_and_distant_prompts_do_not() -> None:
    rules = placement()
    near = [rules.pair_of(box_prompt(x, y, 20), -1) for x, y in ((70, 70), (80, 75), (120, 100))]
    assert len(set(near)) == 1
    assert rules.pair_of(box_prompt(600, 70, 20), -1) != near[0]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_tasks_hold_every_prompt_once_and_do_not_depend_on_the_order(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = [
        box_prompt(rng.uniform(0, 4000), rng.uniform(0, 3000), rng.choice([10, 90, 300, 900]), f"id{i}")
        for i in range(60)
    ]
    tasks = group_prompts(prompts, placement(), limit=limit)
    assert sorted(index for task in tasks for index in task) == list(range(60))
    assert max(map(len, tasks)) <= limit
    order = rng.permutation(60)
    again = group_prompts([prompts[i] for i in order], placement(), limit=limit)
    assert [[order[i] for i in task] for task in again] == tasks


def test_tasks_are_compact_and_keep_pairs_together() -> None:
    prompts = [box_prompt(x, y, 20, f"{x} {y}") for x in range(20, 4000, 90) for y in range(20, 3000, 90)]
    rules = placement()
    tasks = group_prompts(prompts, rules, limit=64)
    assert len(tasks) < 2 * len(prompts) / 64
    keys = [{rules.pair_of(prompts[i], rules.step_of(prompts[i])) for i in task} for task in tasks]
    assert sum(map(len, keys)) == len(set().union(*keys))
    extent = [np.ptp([prompts[i].box[:2] for i in task], axis=0).max() / 2 for task in tasks]
    assert np.median(extent) < 1500


def test_no_prompts_make_no_tasks() -> None:
    assert group_prompts([], placement()) == []
