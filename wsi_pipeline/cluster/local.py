"""Worker processes on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wsi_pipeline.cluster.worker import READ_AHEAD_THREADS, SETTINGS, environment, exported
from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster
    from tornado.ioloop import PeriodicCallback

START_SECONDS = 180
"""How long a worker that takes the place of a lost one may need until it is there, on a machine that is busy: Dask
would end it after 15 s, and start no other."""

LOOK_SECONDS = 5.0
"""How often to look whether a worker is gone for good."""


@contextmanager
def local_workers(*, workers: int | None, threads: int, dashboard: bool) -> Iterator[Client]:
    """A client of workers that only this machine reaches.

    Args:
        workers: processes; None starts one per ``threads`` CPU cores.
        threads: threads of the numerical libraries in each of them.
        dashboard: whether to start Dask's dashboard.
    """
    import dask
    from distributed import Client

    # a task's error comes back as an exception; Dask would log its whole traceback besides
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    wanted = workers or max(1, available_cores() // threads)
    with (
        dask.config.set(SETTINGS | {"distributed.deploy.lost-worker-timeout": f"{START_SECONDS}s"}),
        exported(environment(threads)),
        _started(
            n_workers=wanted,
            threads_per_worker=READ_AHEAD_THREADS,
            host="127.0.0.1",
            dashboard_address=None,
            # without a dashboard Dask still opens port 8787, and complains when another run has it
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0", "dashboard": dashboard},
            silence_logs=logging.CRITICAL,
            preload="wsi_pipeline.cluster.worker",
        ) as cluster,
        Client(cluster) as client,
    ):
        client.loop.add_callback(_keeper(cluster, wanted).start)
        yield client


def _keeper(cluster: LocalCluster, wanted: int) -> PeriodicCallback:
    """Has workers started in place of those that Dask gave up: such as ended while they started."""
    from distributed.core import Status
    from tornado.ioloop import PeriodicCallback

    def replace() -> None:
        for name, worker in list(cluster.workers.items()):
            if worker.status in (Status.closed, Status.failed):
                del cluster.workers[name]
        cluster.scale(wanted)

    looking = PeriodicCallback(replace, 1000 * LOOK_SECONDS)
    cluster.periodic_callbacks["replace-lost-workers"] = looking  # the cluster stops it when it closes
    return looking


def _started(**options: Any) -> LocalCluster:
    """A cluster whose workers are there.

    Raises:
        WsiPipelineError: they end as they start.
    """
    from distributed import LocalCluster

    try:
        return LocalCluster(**options)
    except RuntimeError as error:
        raise WsiPipelineError(
            f"the workers do not start ({error})", where="this machine", fix="Free some memory, or give fewer --workers"
        ) from None


def available_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
