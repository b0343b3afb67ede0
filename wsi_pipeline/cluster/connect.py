"""A Dask client for the length of a run, wherever its workers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.cluster.clock import keep_steady_time
from wsi_pipeline.cluster.demand import Demand
from wsi_pipeline.cluster.jobs import SYSTEMS
from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from distributed import Client

LOCAL, KUBERNETES = "local", "kubernetes"
CLUSTERS = (LOCAL, *SYSTEMS, KUBERNETES)


@contextmanager
def connect(
    cluster: str = LOCAL,
    *,
    profile: Path | None = None,
    workers: int | None = None,
    threads: int = 1,
    demand: Demand | None = None,
    say: Callable[[str], None] | None = None,
    dashboard: bool = False,
) -> Iterator[Client]:
    """A Dask client for the length of a run; workers come and go behind it.

    Args:
        cluster: one of ``CLUSTERS``, or the address of a running scheduler.
        profile: what to ask the cluster for; see ``cluster.profile.load_profile``.
        workers: worker processes, instead of what the profile says; None starts a local one for ``threads`` CPU cores.
        threads: threads of the numerical libraries in each worker; a running scheduler's workers have their own.
        demand: what is left to do, for profiles that give a range of workers.
        say: takes a line for the user.
        dashboard: whether to start Dask's dashboard, where only this machine reaches it, and say its address.

    Raises:
        WsiPipelineError: there is no such cluster, it cannot be used from here, or the profile does not suit it.
    """
    say, demand = say or _keep_quiet, demand or Demand()
    _check(cluster, dashboard)
    keep_steady_time()
    opened: AbstractContextManager[Client]
    if cluster == LOCAL:
        from wsi_pipeline.cluster.local import local_workers

        opened = local_workers(workers=workers, threads=threads, dashboard=dashboard)
    elif cluster == KUBERNETES:
        from wsi_pipeline.cluster.kubernetes import pods

        opened = pods(profile, workers=workers, threads=threads, demand=demand)
    elif cluster in SYSTEMS:
        from wsi_pipeline.cluster.batch import batch_workers

        opened = batch_workers(
            cluster, profile, workers=workers, threads=threads, demand=demand, say=say, dashboard=dashboard
        )
    else:
        opened = running_scheduler(cluster)
    with opened as client:
        if dashboard:
            say(f"dashboard: {_dashboard_of(client, ours=cluster in (LOCAL, *SYSTEMS))}")
        yield client


@contextmanager
def running_scheduler(address: str) -> Iterator[Client]:
    """A client of a scheduler that somebody else started.

    Raises:
        WsiPipelineError: it does not answer.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=20)
    except (OSError, TimeoutError, ValueError) as error:
        raise WsiPipelineError(
            f"no Dask scheduler answers ({error})", where=address, fix="Check the address and that it runs"
        ) from None
    with client:
        yield client


def _check(cluster: str, dashboard: bool) -> None:
    if cluster not in CLUSTERS and ":" not in cluster:
        raise WsiPipelineError(
            "is no cluster", where=cluster, fix=f"Give {', '.join(CLUSTERS)} or an address such as tcp://10.0.0.1:8786"
        )
    if dashboard and find_spec("bokeh") is None:
        raise WsiPipelineError(
            "the dashboard needs the package bokeh", where="--dashboard", fix="Run pip install bokeh"
        )


def _dashboard_of(client: Client, *, ours: bool) -> str:
    if not ours:
        return str(client.dashboard_link)
    # Dask takes it to listen where the scheduler does, but only this machine shall reach it
    port = client.scheduler_info()["services"]["dashboard"]
    return f"http://127.0.0.1:{port}/status"


def _keep_quiet(line: str) -> None:
    pass
