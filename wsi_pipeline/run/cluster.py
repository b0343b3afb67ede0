"""Where tasks run: a local Dask cluster, or any scheduler by address; and how many are under way at once."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from distributed import Client, Future

TASKS_PER_THREAD = 2
"""Tasks in flight per worker thread: one running and one waiting, so that no thread idles between two."""

READ_AHEAD_THREADS = 2
"""Dask threads per worker process: one reads the next batch while another one holds the model."""

KEPT_BYTES = 2**28
"""Freed memory that a worker keeps for its next use, per arena: a few of the largest tensors of a tile."""


@contextmanager
def connect(address: str | None = None, *, workers: int | None = None, threads: int = 1) -> Iterator[Client]:
    """A Dask client for the length of a run.

    Args:
        address: address of a running scheduler; None starts a local cluster bound to the loopback interface.
        workers: local worker processes; None starts one per ``threads`` CPU cores.
        threads: threads of the numerical libraries in each local worker. The result of a convolution depends on
            how many threads share its sums, so this number is part of what makes two runs identical; workers are not.

    Raises:
        WsiPipelineError: the scheduler does not answer.
    """
    from distributed import Client, LocalCluster

    if address is not None:
        try:
            client = Client(address, timeout=20)
        except (OSError, TimeoutError, ValueError) as error:
            raise WsiPipelineError(
                f"no Dask scheduler answers ({error})", where=address, fix="Check the address and that it runs"
            ) from None
        with client:
            yield client
        return
    import dask

    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # glibc would keep what the threads of a worker free in an arena for each of them; what it gives back at once, as
    # Dask asks it to, a model fetches again for every layer, which nearly doubles the time of a tile
    environment |= {"MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES), "MALLOC_ARENA_MAX": "2"}
    settings = {
        "distributed.nanny.pre-spawn-environ": environment,
        # a run of weeks must not die because one worker was busy in C code for a minute
        "distributed.comm.timeouts.connect": "60s",
        "distributed.worker.memory.spill": False,
    }
    # a task's error comes back as an exception; Dask would log its whole traceback besides
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers or max(1, available_cores() // threads),
            threads_per_worker=READ_AHEAD_THREADS,
            host="127.0.0.1",
            dashboard_address=None,
            # without a dashboard Dask still opens port 8787, and complains when another run has it
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL,
            preload=__name__,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def dask_setup(worker: object) -> None:
    """Called by Dask as a local worker starts (``preload``).

    Ctrl-C reaches every process of the terminal, but only the coordinator acts on it and then stops its workers.
    Warnings about a slide are logged by the coordinator, too; once is enough.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger().addHandler(logging.NullHandler())


def available_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_tasks(
    client: Client,
    function: Callable[..., Any],
    tasks: Iterable[tuple[int, tuple[Any, ...]]],
    on_result: Callable[[int, Any], None],
) -> None:
    """Run numbered tasks with a bounded number in flight and hand over each result as it comes.

    Args:
        client: where to run.
        function: what to run on a worker; it must be safe to run twice (a lost worker's task is repeated).
        tasks: ``(number, arguments)``, taken lazily.
        on_result: called here with number and result, in the order of completion.

    Raises:
        Exception: whatever the first failing task raised; tasks in flight are cancelled.
    """
    from distributed import as_completed

    waiting = iter(tasks)
    numbers: dict[Future, int] = {}
    limit = max(4, TASKS_PER_THREAD * sum(client.nthreads().values()))

    def submit_next() -> Future | None:
        for number, arguments in waiting:
            future = client.submit(function, *arguments, pure=False)
            numbers[future] = number
            return future
        return None

    first = [future for _ in range(limit) if (future := submit_next()) is not None]
    running = as_completed(first)
    try:
        for future in running:
            on_result(numbers.pop(future), future.result())
            future.release()
            following = submit_next()
            if following is not None:
                running.add(following)
    except BaseException:
        client.cancel(list(numbers), force=True)
        raise
