"""A run keeps as many jobs as it wishes to have, whatever the batch system does."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.cluster.jobs import JobKind
from wsi_pipeline.cluster.keeper import ABSENT_SECONDS, LONGEST_PAUSE, Crew, Keeper, job_of
from wsi_pipeline.errors import WsiPipelineError

INTERVAL = 15.0
KIND = JobKind("cpu", None, 4, "16GB", [], processes=2)


@dataclass
class FakeBatch:
    """A batch system, its clock, and the workers that its jobs start."""

    now: float = 0.0
    names: dict[str, str] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)
    cancelled: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    refuses: bool = False
    answers: bool = True
    wished: int = 2

    def submit(self, kind: JobKind, name: str) -> str:
        if self.refuses:
            raise WsiPipelineError("the job was refused: no such partition", where="fake")
        number = str(100 + len(self.names))
        self.names[number] = name
        self.listed.add(number)
        return number

    def unfinished(self) -> set[str] | None:
        return set(self.listed) if self.answers else None

    def cancel(self, jobs: Iterable[str]) -> None:
        for number in jobs:
            self.cancelled.append(number)
            self.end(number)

    def last_line(self, job: str) -> str | None:
        return f"last word of {job}"

    def retire(self, jobs: Collection[str]) -> None:
        self.retired += jobs

    def start(self, number: str) -> None:
        self.workers |= {f"{self.names[number]}-{process}" for process in range(KIND.processes)}

    def end(self, number: str) -> None:
        self.listed.discard(number)
        self.workers = {worker for worker in self.workers if job_of(worker) != self.names[number]}

    def keeper(self) -> Keeper:
        crew = Crew(KIND, lambda: self.wished)
        return Keeper(
            self,
            [crew],
            workers=lambda: self.workers,
            retire=self.retire,
            interval=INTERVAL,
            say=self.said.append,
            clock=lambda: self.now,
        )

    def pass_time(self, keeper: Keeper, seconds: float = INTERVAL) -> None:
        self.now += seconds
        keeper.look()


@pytest.fixture
def batch() -> FakeBatch:
    return FakeBatch()


def test_job_that_waits_in_the_queue_is_not_missing(batch: FakeBatch) -> None:
    with batch.keeper() as keeper:
        for _ in range(1000):
            batch.pass_time(keeper)
        assert sorted(batch.listed) == ["100", "101"]
    assert batch.said == []


def test_job_that_ended_is_replaced(batch: FakeBatch) -> None:
    with batch.keeper() as keeper:
        batch.start("100")
        batch.pass_time(keeper)
        batch.end("100")
        batch.pass_time(keeper)
        assert batch.listed == {"101", "102"}
        assert batch.names["102"] == "cpu-2"
    assert batch.said == []


def test_all_jobs_are_cancelled_at_the_end(batch: FakeBatch) -> None:
    with pytest.raises(KeyboardInterrupt), batch.keeper():
        raise KeyboardInterrupt
    assert batch.listed == set()


def test_refused_job_leaves_none_behind(batch: FakeBatch) -> None:
    batch.submit(KIND, "somebody else's")
    keeper, submit = batch.keeper(), batch.submit

    def refuse_second(kind: JobKind, name: str) -> str:
        batch.refuses = len(batch.names) == 2
        return submit(kind, name)

    batch.submit = refuse_second  # type: ignore[method-assign]
    with pytest.raises(WsiPipelineError, match="no such partition"), keeper:
        pass
    assert batch.cancelled == ["101"]
    assert batch.listed == {"100"}


def test_jobs_that_end_at_once_are_tried_less_and_less_often(batch: FakeBatch) -> None:
    with batch.keeper() as keeper:
        tries = []
        while batch.now < 4 * 3600:
            before = len(batch.names)
            for number in sorted(batch.listed):
                batch.end(number)
            batch.pass_time(keeper)
            if len(batch.names) > before:
                tries.append(batch.now)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 5 * INTERVAL
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE, abs=2 * INTERVAL)
    assert batch.said[0] == "2 jobs ended right after the start: last word of 101; the next try is in 30 s"
    assert len(batch.said) <= len(tries) + 1


def test_worker_that_came_ends_the_pauses(batch: FakeBatch) -> None:
    batch.wished = 1
    with batch.keeper() as keeper:
        for _ in range(3):
            batch.end(max(batch.listed))
            while not batch.listed:
                batch.pass_time(keeper)
        batch.start(max(batch.listed))
        batch.pass_time(keeper)
        batch.end(max(batch.listed))
        batch.pass_time(keeper)
        assert batch.listed


def test_batch_system_that_does_not_answer_changes_nothing(batch: FakeBatch) -> None:
    with batch.keeper() as keeper:
        batch.start("100")
        batch.pass_time(keeper)
        batch.answers = False
        batch.end("100")
        for _ in range(10):
            batch.pass_time(keeper)
        assert len(batch.names) == 2


def test_fresh_job_may_be_listed_late(batch: FakeBatch) -> None:
    with batch.keeper() as keeper:
        batch.listed.clear()
        batch.pass_time(keeper, 1)
        assert len(batch.names) == 2


def test_job_whose_workers_are_lost_for_long_is_replaced(batch: FakeBatch) -> None:
    with batch.keeper() as keeper:
        batch.start("100")
        batch.pass_time(keeper)
        batch.workers.clear()
        batch.pass_time(keeper)
        assert batch.cancelled == []
        batch.pass_time(keeper, ABSENT_SECONDS)
        assert batch.cancelled == ["100"]
        assert batch.listed == {"101", "102"}


def test_later_refusal_is_said_and_tried_again(batch: FakeBatch) -> None:
    with batch.keeper() as keeper:
        batch.start("100")
        batch.pass_time(keeper)
        batch.end("100")
        batch.refuses = True
        batch.pass_time(keeper)
        assert batch.said == ["the job was refused: no such partition; the next try is in 30 s"]
        batch.refuses = False
        batch.pass_time(keeper, 30)
        assert len(batch.listed) == 2


def test_waiting_jobs_go_before_workers_are_retired(batch: FakeBatch) -> None:
    batch.wished = 3
    with batch.keeper() as keeper:
        batch.start("100")
        batch.start("102")
        batch.pass_time(keeper)
        batch.wished = 1
        batch.pass_time(keeper)
        assert batch.cancelled == ["101"]
        assert batch.retired == ["cpu-2"]
        batch.end("102")
        batch.pass_time(keeper)
        assert batch.listed == {"100"}
    assert batch.said == []


@given(st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5))), max_size=20))
def test_there_are_never_more_jobs_than_wished(rounds: list[tuple[int, set[int], set[int]]]) -> None:
    batch = FakeBatch()
    with batch.keeper() as keeper:
        for wished, starting, ending in rounds:
            batch.wished = wished
            jobs = sorted(batch.listed)
            for index in starting & set(range(len(jobs))):
                batch.start(jobs[index])
            for index in ending & set(range(len(jobs))):
                batch.end(jobs[index])
            batch.pass_time(keeper)
            staying = {number for number in batch.listed if batch.names[number] not in batch.retired}
            assert len(staying) <= wished
    assert batch.listed == set()


@pytest.mark.parametrize(("worker", "job"), [("cpu-3", "cpu-3"), ("cpu-3-1", "cpu-3"), ("gpu-30", "gpu-30")])
def test_worker_tells_its_job(worker: str, job: str) -> None:
    assert job_of(worker) == job
