"""Tasks of many slides: a bounded number under way, first slides first, lost workers not blamed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from distributed.scheduler import KilledWorker

from wsi_pipeline.cluster.demand import Demand
from wsi_pipeline.errors import WorkerError
from wsi_pipeline.run import flow as module
from wsi_pipeline.run.flow import Flow, Stopped


class FakeFuture:
    def __init__(self, work: Callable[[], Any]) -> None:
        self.status, self._work, self._called = "pending", work, []
        self._result: Any = None

    def run(self) -> None:
        try:
            self._result, self.status = self._work(), "finished"
        except Exception as error:
            self._result, self.status = error, "error"
        self.tell()

    def tell(self) -> None:
        for call in self._called:
            call(self)

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self._called.append(call)

    def exception(self) -> Any:
        return self._result

    def result(self) -> Any:
        if self.status == "error":
            raise self._result
        return self._result

    def release(self) -> None:
        pass


class FakeClient:
    """Workers that do what was handed to them when they are told to, one task after the other."""

    def __init__(self, threads: int = 2, memory: int = 0, gpu: bool = False) -> None:
        self.workers = [{"nthreads": threads, "memory_limit": memory, "resources": {"GPU": 1} if gpu else {}}]
        self.handed: list[tuple[FakeFuture, dict]] = []
        self.cancelled: list[Any] = []
        self.most = 0

    def scheduler_info(self, n_workers: int) -> dict:
        return {"workers": dict(enumerate(self.workers))}

    def map(self, function: Any, arguments: list[Any], **options: Any) -> list[FakeFuture]:
        futures = [FakeFuture(partial(function, one)) for one in arguments]
        self.handed += [(future, options) for future in futures]
        self.most = max(self.most, len(self.handed))
        return futures

    def cancel(self, futures: list, force: bool) -> None:
        self.cancelled += futures
        for future in futures:
            self.handed = [one for one in self.handed if one[0] is not future]
            future.status = "cancelled"
            future.tell()

    def gather(self, futures: list[FakeFuture]) -> list[Any]:
        return [future.result() for future in futures]

    def work(self) -> None:
        self.handed.pop(0)[0].run()


def wait_until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.001)


class Lane(threading.Thread):
    """One slide's stage of ten tasks, in a thread as in a run."""

    def __init__(self, flow: Flow, name: str, function: Any = None, tasks: int = 10, **options: Any) -> None:
        super().__init__(daemon=True)
        self.results: dict[int, Any] = {}
        self.error: BaseException | None = None
        self._run = lambda: flow.run(
            function or (lambda number: (name, number)),
            ((number, (number,)) for number in range(tasks)),
            self.results.__setitem__,
            total=tasks,
            **options,
        )
        self.start()

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error


def finish(client: FakeClient, *lanes: Lane) -> None:
    end = time.monotonic() + 20
    while any(lane.is_alive() for lane in lanes):
        assert time.monotonic() < end
        if client.handed:
            client.work()
        time.sleep(0.0005)


def test_number_of_tasks_under_way_is_bounded_over_all_slides() -> None:
    client = FakeClient(threads=3)
    flow = Flow(client)
    lanes = [Lane(flow, str(order), order=order) for order in range(5)]
    wait_until(lambda: len(client.handed) == 6)
    time.sleep(0.05)
    finish(client, *lanes)
    assert client.most == 6 == module.TASKS_PER_THREAD * 3
    assert [lane.results for lane in lanes] == [{n: (str(order), n) for n in range(10)} for order in range(5)]
    assert flow.ended == 50


def test_slide_that_began_first_gets_the_free_slots() -> None:
    client = FakeClient(threads=2)
    flow = Flow(client)
    later = Lane(flow, "later", order=7)
    wait_until(lambda: len(client.handed) == 4)
    first = Lane(flow, "first", order=0)
    time.sleep(0.05)
    for _ in range(4):
        client.work()
    wait_until(lambda: len(client.handed) == 4)
    assert [options["priority"] for _, options in client.handed] == [0, 0, 0, 0]
    finish(client, first, later)
    assert len(first.results) == len(later.results) == 10


def test_heavy_tasks_are_handed_over_as_far_as_the_memory_of_the_workers_goes() -> None:
    client = FakeClient(threads=8, memory=1000)
    flow = Flow(client)
    heavy = Lane(flow, "heavy", weight=250)
    wait_until(lambda: len(client.handed) == 2)
    time.sleep(0.05)
    finish(client, heavy)
    assert client.most == 2
    assert len(heavy.results) == 10


def test_task_heavier_than_all_memory_runs_alone() -> None:
    client = FakeClient(threads=8, memory=1000)
    lane = Lane(Flow(client), "huge", weight=10**9)
    finish(client, lane)
    assert client.most == 1
    assert len(lane.results) == 10


@pytest.mark.parametrize("gpu", [True, False])
def test_model_is_asked_beside_a_gpu_where_there_is_one(gpu: bool) -> None:
    client = FakeClient(gpu=gpu)
    flow = Flow(client)
    for model in (True, False):
        lane = Lane(flow, "a", tasks=1, model=model)
        wait_until(lambda: len(client.handed) == 1)
        assert client.handed[0][1]["resources"] == ({"GPU": 1} if gpu and model else None)
        finish(client, lane)


def test_task_whose_worker_ended_is_asked_again_and_blamed_only_in_the_end() -> None:
    class Worker:
        address = "tcp://worker"

    deaths = {3: 2, 5: 99}

    def die(number: int) -> int:
        if deaths.get(number, 0):
            deaths[number] -= 1
            raise KilledWorker("task", Worker(), 3)
        return number

    client = FakeClient()
    lucky = Lane(Flow(client), "lucky", die, tasks=5)
    finish(client, lucky)
    assert lucky.error is None
    assert lucky.results == {n: n for n in range(5)}
    poison = Lane(Flow(client), "poison", die, tasks=8)
    finish(client, poison)
    assert isinstance(poison.error, WorkerError)
    assert "task 5: every worker that was at it ended" in str(poison.error)
    assert deaths[5] == 99 - module.DEATHS


def test_result_that_is_lost_with_its_worker_is_waited_for() -> None:
    client = FakeClient()
    lane = Lane(Flow(client), "a", tasks=3)
    wait_until(lambda: len(client.handed) == 3)
    future, _ = client.handed.pop(0)
    future._result, future.status = ("a", 0), "lost"
    future.tell()
    finish(client, lane)
    assert lane.error is None
    assert lane.results == {n: ("a", n) for n in range(3)}


def test_task_that_the_scheduler_forgot_is_asked_again() -> None:
    client = FakeClient()
    lane = Lane(Flow(client), "a", tasks=3)
    wait_until(lambda: len(client.handed) == 3)
    future, _ = client.handed.pop(0)
    future.status = "cancelled"
    future.tell()
    finish(client, lane)
    assert lane.error is None
    assert len(lane.results) == 3


def test_error_of_a_task_ends_its_slide_alone_and_frees_its_slots() -> None:
    def broken(number: int) -> int:
        if number == 2:
            raise ValueError("broken")
        return number

    client = FakeClient()
    flow = Flow(client)
    bad, good = Lane(flow, "bad", broken, order=0, weight=3), Lane(flow, "good", order=1)
    finish(client, bad, good)
    assert str(bad.error) == "broken"
    assert good.error is None
    assert len(good.results) == 10
    assert (flow._under_way, flow._weight, flow._waiting) == (0, 0, [])


def test_stop_ends_everybody_and_nobody_starts_after_it() -> None:
    client = FakeClient()
    flow = Flow(client)
    lanes = [Lane(flow, str(order), order=order) for order in range(3)]
    wait_until(lambda: len(client.handed) == 4)
    flow.stop()
    for lane in lanes:
        lane.join(5)
        assert isinstance(lane.error, Stopped)
    assert len(client.cancelled) == 4
    with pytest.raises(Stopped):
        flow.call(len, "abc")


def test_demand_is_what_is_left_of_all_stages_under_way() -> None:
    client, demand = FakeClient(), Demand()
    flow = Flow(client, demand)
    lanes = [Lane(flow, str(order), order=order) for order in range(3)]
    wait_until(lambda: demand.tasks == 30)
    finish(client, *lanes)
    assert demand.tasks == 0


def test_results_of_different_calls_come_in_their_order(cluster: str) -> None:
    from distributed import Client

    with Client(cluster) as client:
        flow = Flow(client)
        assert flow.together([(max, 1, 2), (len, "abc"), (sum, [4, 5])]) == [2, 3, 9]
        assert flow.call(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            flow.call(divmod, 1, 0)
        assert flow.capacity.threads == 4
