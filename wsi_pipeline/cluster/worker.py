"""A worker process: what it starts with, wherever it runs."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

READ_AHEAD_THREADS = 2
"""Dask threads per worker process: one reads the next batch while another one holds the model."""

KEPT_BYTES = 2**28
"""Freed memory that a worker keeps for its next use, per arena: a few of the largest tensors of a tile."""

GPU = "GPU"
"""Dask resource of workers with a GPU, one for each thread that reads ahead; the model itself is used in turn."""

CONNECT_SECONDS = 60
"""A run of weeks must not die because one worker was busy in C code for a minute."""

LOST_WORKERS = 3
"""Workers that a task may lose before Dask calls it bad: whether it is, the coordinator decides, see ``run.flow``."""

SETTINGS = {
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    "distributed.worker.memory.spill": False,
    "distributed.scheduler.allowed-failures": LOST_WORKERS,
}
"""Dask's settings in the coordinator, and in workers that it starts itself."""


def environment(threads: int) -> dict[str, str]:
    """Environment variables that have to be set before a worker process starts.

    Args:
        threads: threads of the numerical libraries. The result of a convolution depends on how many threads share
            its sums, so this number is part of what makes two runs identical; the number of workers is not.
    """
    numerical = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # glibc would keep what the threads of a worker free in an arena for each of them; what it gives back at once, as
    # Dask asks it to, a model fetches again for every layer, which nearly doubles the time of a tile
    return numerical | {"MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES), "MALLOC_ARENA_MAX": "2"}


def remote_environment(threads: int) -> dict[str, str]:
    """The same for workers that do not inherit the coordinator's settings of Dask."""
    return environment(threads) | {
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{CONNECT_SECONDS}s",
        "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    }


@contextmanager
def exported(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables here, for processes started meanwhile.

    Dask prefers what is in its own environment to what it is told to give to workers.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def dask_setup(worker: object) -> None:
    """Called by Dask as a worker starts (``preload``).

    Ctrl-C reaches every process of the terminal, but only the coordinator acts on it and then stops its workers.
    Warnings about a slide are logged by the coordinator, too; once is enough.
    """
    from wsi_pipeline.cluster.clock import keep_steady_time

    keep_steady_time()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger().addHandler(logging.NullHandler())
