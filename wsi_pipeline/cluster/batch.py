"""Workers in the jobs of a batch system."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from wsi_pipeline.cluster.demand import Demand, Wish
from wsi_pipeline.cluster.jobs import JobQueue, check_system, cpu_jobs, gpu_jobs
from wsi_pipeline.cluster.keeper import Crew, Keeper, job_of
from wsi_pipeline.cluster.profile import Profile, load_profile
from wsi_pipeline.cluster.security import keys_in
from wsi_pipeline.cluster.worker import SETTINGS
from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from distributed import Client, SpecCluster


@contextmanager
def batch_workers(
    system: str,
    path: Path | None,
    *,
    workers: int | None,
    threads: int,
    demand: Demand,
    say: Callable[[str], None],
    dashboard: bool,
) -> Iterator[Client]:
    """A client of a scheduler in this process, whose workers are jobs.

    The scheduler listens where the nodes reach it. That is the one place where the pipeline opens a port to other
    machines, and why it asks for a key there.

    Args:
        system: a key of ``cluster.jobs.SYSTEMS``.
        path: the profile's file.
        workers, threads, demand, say, dashboard: see ``cluster.connect.connect``.

    Raises:
        WsiPipelineError: jobs cannot be submitted.
    """
    import dask
    from distributed import Client

    profile = load_profile(system, path, Profile)
    check_system(system)
    kind = cpu_jobs(profile, threads)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        folder = _run_folder(profile)
        own, theirs = stack.enter_context(keys_in(folder)) if profile.security else (None, None)
        stack.enter_context(dask.config.set(SETTINGS))
        cluster = stack.enter_context(_scheduler(profile, own, dashboard))
        queue = JobQueue(system, profile, threads, cluster.scheduler_address, folder, theirs)
        crews = [Crew(kind, Wish(workers or profile.workers, kind.processes, kind.threads, demand))]
        if profile.gpu.jobs:
            crews.append(Crew(gpu_jobs(profile), Wish(profile.gpu.jobs)))
            demand.gpu = True
        staff = _Staff(cluster)
        stack.enter_context(
            Keeper(queue, crews, workers=staff.names, retire=staff.retire, interval=profile.interval, say=say)
        )
        count = sum(len(crew.jobs) for crew in crews)
        say(f"{system}: {count} job{'s' * (count != 1)} submitted; what they print is in {folder}")
        yield stack.enter_context(Client(cluster))


def _run_folder(profile: Profile) -> Path:
    """A folder of this run that all nodes see and nobody else may look into."""
    from platformdirs import user_state_path

    folder = profile.folder or str(user_state_path("wsi-pipeline") / "cluster")
    parent = Path(os.path.expandvars(folder)).expanduser()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(mkdtemp(prefix="run-", dir=parent.absolute()))
    except OSError as error:
        raise WsiPipelineError(
            f"cannot be written ({error.strerror or error})",
            where=parent,
            fix="Set folder in the cluster profile to one that all nodes see",
        ) from None


def _scheduler(profile: Profile, security: Any, dashboard: bool) -> SpecCluster:
    from distributed import Scheduler, SpecCluster
    from distributed.utils import get_ip

    options = {
        "protocol": "tls://" if profile.security else "tcp://",
        "security": security,
        "port": 0,
        "dashboard": dashboard,
        "dashboard_address": "127.0.0.1:0",
    }
    where = {"interface": profile.interface} if profile.interface else {"host": get_ip()}
    try:
        return SpecCluster(
            scheduler={"cls": Scheduler, "options": options | where},
            security=security,
            silence_logs=logging.CRITICAL,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise WsiPipelineError(
            f"no scheduler can listen there ({error})",
            where=f"interface {profile.interface}",
            fix="Set interface in the cluster profile to one of this machine that the nodes reach",
        ) from None


class _Staff:
    """The workers that a scheduler in this process has."""

    def __init__(self, cluster: SpecCluster) -> None:
        self._cluster = cluster
        self._scheduler: Any = cluster.scheduler

    def names(self) -> list[str]:
        return [str(worker.name) for worker in list(self._scheduler.workers.values())]

    def retire(self, jobs: Collection[str]) -> None:
        """Have the workers of these jobs hand over what they have, and end."""
        workers = list(self._scheduler.workers.values())
        addresses = [worker.address for worker in workers if job_of(str(worker.name)) in jobs]
        if addresses:
            self._cluster.sync(self._scheduler.retire_workers, workers=addresses, close_workers=True)
