"""From the coordinator to the workers and back: many slides' tasks, of which a bounded number is under way."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import WorkerError

if TYPE_CHECKING:
    from distributed import Client, Future

    from wsi_pipeline.cluster.demand import Demand

TASKS_PER_THREAD = 2
"""Tasks in flight per worker thread: one running and one waiting, so that no thread idles between two."""

MEMORY_SHARE = 0.6
"""Share of the workers' memory that the tasks in flight may need together; the rest is for models and libraries."""

AHEAD = 8
"""Slots that a stage waits for at once, so that no later slide's gets one before it can ask for the next."""

DEATHS = 5
"""How often Dask may call a task bad, each time after several workers ended under it, before it is blamed: lost nodes
and walltimes are nobody's fault."""

LOOK_SECONDS = 2.0
"""How old what is known about the workers may be."""


class Stopped(Exception):
    """The run is being stopped."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the workers take together: threads, bytes of memory (None without limit), threads beside a GPU."""

    threads: int
    memory: int | None
    gpu_threads: int


@dataclass
class _Lane:
    """One stage of one slide; it is told of the slots it gets and of the tasks that ended."""

    order: int
    weight: int
    asked: int = 0
    inbox: SimpleQueue[Any] = field(default_factory=SimpleQueue)

    def receive(self) -> tuple[int, list[Future]]:
        """Wait for something, and take all that is there: the number of slots, and the tasks that ended."""
        told = [self.inbox.get()]
        with suppress(Empty):
            while True:
                told.append(self.inbox.get_nowait())
        ended = [future for future in told if future is not None]
        return len(told) - len(ended), ended


class Flow:
    """Shared by all slides of a run.

    A slide that began earlier gets a free slot first, so that a big slide has all workers while its stages are wide and
    the next ones fill the gaps that its narrow ones leave.

    Args:
        client: where to run.
        demand: kept up to date with the number of tasks that are under way or wait.

    Attributes:
        ended: tasks that ended well, of all slides.
    """

    def __init__(self, client: Client, demand: Demand | None = None) -> None:
        self._client, self._demand = client, demand
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, _Lane]] = []
        self._under_way = self._weight = self._asked = self._backlog = 0
        self._looked, self._capacity = float("-inf"), Capacity(1, None, 0)
        self._stopped = False
        self.ended = 0
        self._inboxes: set[SimpleQueue[Any]] = set()

    @property
    def capacity(self) -> Capacity:
        """Of the workers there are now, or were a moment ago."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            with suppress(OSError, TimeoutError):  # the scheduler is busy: what was known a moment ago will do
                self._capacity = _capacity(self._client)
        return self._capacity

    def run(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[int, tuple[Any, ...]]],
        on_result: Callable[[int, Any], None],
        *,
        total: int = 0,
        order: int = 0,
        weight: int = 0,
        model: bool = False,
    ) -> None:
        """Run numbered tasks and hand over each result as it comes; called from any number of threads.

        Args:
            function: what to run on a worker; it must be safe to run twice (a lost worker's task is repeated).
            tasks: ``(number, arguments)``, taken lazily.
            on_result: called here with number and result, in the order of completion.
            total: how many they are about, for whoever decides how many workers are worth having.
            order: of the slide among all; lower numbers go first.
            weight: bytes that one task needs at most, besides the model.
            model: whether the tasks ask a model: where workers have a GPU, only they take them.

        Raises:
            WorkerError: a task's workers ended under it again and again.
            Stopped: see ``stop``.
            Exception: whatever the first failing task raised; tasks in flight are cancelled.
        """
        lane = _Lane(order, weight)
        resources = {"GPU": 1} if model and self._has_gpu() else None
        waiting, running = iter(tasks), dict[Any, tuple[int, tuple[Any, ...]]]()
        deaths: dict[int, int] = {}
        self._enter(lane, total)
        try:
            self._ask(lane, AHEAD)
            while lane.asked or running:
                slots, ended = lane.receive()
                if self._stopped:
                    raise Stopped
                handed, whole = self._use(lane, slots, waiting), dict[Any, int]()
                for future in ended:
                    number, arguments = running.pop(future)
                    if self._lost(future, number, deaths):
                        self._take(lane)
                        handed.append((number, arguments))
                    else:
                        whole[future] = number
                running |= self._submit(function, handed, lane, resources)
                for future, result in self._results(whole):
                    on_result(whole[future], result)
                    future.release()
                    self.ended += 1
        except BaseException:
            self._client.cancel(list(running), force=True)
            raise
        finally:
            self._leave(lane, total)

    def call(self, function: Callable[..., Any], *arguments: Any, order: int = 0, model: bool = False) -> Any:
        """The result of one task."""
        return self.together([(function, *arguments)], order=order, model=model)[0]

    def together(
        self,
        calls: list[tuple[Any, ...]],
        on_result: Callable[[], None] = lambda: None,
        *,
        order: int = 0,
        model: bool = False,
    ) -> list[Any]:
        """The results of a few tasks ``(function, *arguments)`` of different kinds, run side by side."""
        results: dict[int, Any] = {}

        def keep(number: int, result: Any) -> None:
            results[number] = result
            on_result()

        self.run(_call, enumerate(calls), keep, total=len(calls), order=order, model=model)
        return [results[number] for number in range(len(calls))]

    def stop(self) -> None:
        """Have every ``run`` under way end with ``Stopped``."""
        with self._lock:
            self._stopped = True
            for inbox in self._inboxes:
                inbox.put(None)

    def _has_gpu(self) -> bool:
        """Whether workers with a GPU are there or will come: what they round differently others must not do."""
        return bool(self.capacity.gpu_threads) or (self._demand is not None and self._demand.gpu)

    def _submit(
        self, function: Callable[..., Any], tasks: list[tuple[int, tuple[Any, ...]]], lane: _Lane, resources: Any
    ) -> dict[Any, tuple[int, tuple[Any, ...]]]:
        """Hand tasks over, together as every request takes its time."""
        if not tasks:
            return {}
        futures = self._client.map(
            partial(_apply, function),
            [arguments for _, arguments in tasks],
            key=function.__name__,  # Dask learns how long tasks of a name take
            pure=False,
            priority=-lane.order,
            resources=resources,
        )
        for future in futures:
            future.add_done_callback(partial(self._give_back, lane))
        return dict(zip(futures, tasks, strict=True))

    def _use(
        self, lane: _Lane, slots: int, waiting: Iterator[tuple[int, tuple[Any, ...]]]
    ) -> list[tuple[int, tuple[Any, ...]]]:
        """A task for each slot as long as there are tasks, and new slots asked for; else what is too many goes back."""
        lane.asked -= slots
        used = list(islice(waiting, slots))
        if len(used) < slots:
            self._ask_no_more(lane, slots - len(used))
        elif used:
            self._ask(lane, slots)
        return used

    def _results(self, ended: Iterable[Future]) -> Iterator[tuple[Future, Any]]:
        """What tasks returned, fetched together as every request takes its time; an error comes after all results.

        What was lost with its worker meanwhile is computed again, and waited for.
        """
        whole = [future for future in ended if future.status != "error"]
        yield from zip(whole, self._client.gather(whole), strict=True)
        for future in ended:
            if future.status == "error":
                future.result()

    def _lost(self, future: Future, number: int, deaths: dict[int, int]) -> bool:
        """Whether a task ended without an answer because of what happened to workers, and may be asked again."""
        from distributed.scheduler import KilledWorker

        if future.status == "cancelled":  # the scheduler forgot it
            return True
        if future.status != "error" or not isinstance(future.exception(), KilledWorker):
            return False
        deaths[number] = deaths.get(number, 0) + 1
        if deaths[number] >= DEATHS:
            raise WorkerError(
                f"task {number}: every worker that was at it ended, most likely for want of memory",
                fix="Give workers more memory, or lower tiling.batch, and run the same command again",
            ) from None
        return True

    def _enter(self, lane: _Lane, total: int) -> None:
        with self._lock:
            self._inboxes.add(lane.inbox)
            self._tell(total)
        if self._stopped:
            raise Stopped

    def _leave(self, lane: _Lane, total: int) -> None:
        with self._lock:
            self._inboxes.discard(lane.inbox)
            unused = lane.asked - self._withdraw(lane)
            self._free(lane, unused)
            self._tell(-total)

    def _tell(self, more: int) -> None:
        self._backlog += more
        if self._demand is not None:
            self._demand.tasks = self._backlog

    def _ask(self, lane: _Lane, slots: int) -> None:
        """Have slots given to a lane, now or later."""
        capacity = self.capacity
        with self._lock:
            lane.asked += slots
            for _ in range(slots):
                self._asked += 1
                heapq.heappush(self._waiting, (lane.order, self._asked, lane))
            self._grant(capacity)

    def _ask_no_more(self, lane: _Lane, slots: int) -> None:
        """Give back the slots that a lane has no tasks for, and all that it waits for."""
        with self._lock:
            lane.asked -= self._withdraw(lane)
            self._free(lane, slots)

    def _withdraw(self, lane: _Lane) -> int:
        others = [entry for entry in self._waiting if entry[2] is not lane]
        withdrawn = len(self._waiting) - len(others)
        heapq.heapify(others)
        self._waiting = others
        return withdrawn

    def _take(self, lane: _Lane) -> None:
        """Count a task that is handed over once more."""
        with self._lock:
            self._under_way += 1
            self._weight += lane.weight

    def _give_back(self, lane: _Lane, future: Future) -> None:
        with self._lock:
            self._free(lane, 1)
        lane.inbox.put(future)

    def _free(self, lane: _Lane, slots: int) -> None:
        self._under_way -= slots
        self._weight -= slots * lane.weight
        self._grant(self._capacity)  # as it was known last: this may be Dask's own thread, which cannot ask Dask

    def _grant(self, capacity: Capacity) -> None:
        limit = max(4, TASKS_PER_THREAD * capacity.threads)
        memory = None if capacity.memory is None else MEMORY_SHARE * capacity.memory
        while self._waiting and self._under_way < limit:
            lane = self._waiting[0][2]
            if memory is not None and self._under_way and self._weight + lane.weight > memory:
                return
            heapq.heappop(self._waiting)
            self._under_way += 1
            self._weight += lane.weight
            lane.inbox.put(None)


def _apply(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _capacity(client: Client) -> Capacity:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [worker["memory_limit"] for worker in workers]
    return Capacity(
        threads=sum(worker["nthreads"] for worker in workers),
        memory=sum(limits) if limits and all(limits) else None,
        gpu_threads=sum(worker["nthreads"] for worker in workers if worker.get("resources", {}).get("GPU")),
    )
