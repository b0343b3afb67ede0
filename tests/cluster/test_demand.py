"""How many jobs a run wishes to have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.cluster.demand import PATIENCE, Demand, Wish
from wsi_pipeline.cluster.profile import Range


@pytest.mark.parametrize(("workers", "processes", "jobs"), [(1, 1, 1), (5, 4, 2), (8, 4, 2), (1, 4, 1)])
def test_fixed_number_of_workers_is_spread_over_jobs(workers: int, processes: int, jobs: int) -> None:
    assert Wish(workers, processes)() == jobs


@given(tasks=st.integers(0, 10**7), low=st.integers(0, 10), more=st.integers(1, 50), processes=st.integers(1, 8))
def test_wish_stays_in_its_range_and_is_no_larger_than_the_demand(
    tasks: int, low: int, more: int, processes: int
) -> None:
    jobs = Wish(Range(minimum=low, maximum=low + more), processes, 2, Demand(tasks))()
    assert jobs * processes >= low
    assert (jobs - 1) * processes < low + more
    assert (jobs - 1) * processes * 2 < max(tasks, 2 * low) or jobs == 0


def test_more_is_wished_at_once_and_less_only_after_a_while() -> None:
    demand = Demand(2)
    wish = Wish(Range(minimum=1, maximum=10), threads=2, demand=demand)
    assert wish() == 1
    demand.tasks = 40
    assert wish() == 10
    demand.tasks = 0
    assert [wish() for _ in range(PATIENCE)] == [10] * (PATIENCE - 1) + [1]
