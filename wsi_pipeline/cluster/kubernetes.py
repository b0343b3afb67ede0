"""Workers in the pods of a Kubernetes cluster that has the Dask operator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from wsi_pipeline.cluster.demand import Demand, Wish
from wsi_pipeline.cluster.profile import KubernetesProfile, load_profile
from wsi_pipeline.cluster.worker import GPU, READ_AHEAD_THREADS, SETTINGS, remote_environment
from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from distributed import Client

IDLE_SECONDS = 3600
"""The operator takes down what a coordinator that was killed left behind after so long without a task."""


@contextmanager
def pods(path: Path | None, *, workers: int | None, threads: int, demand: Demand) -> Iterator[Client]:
    """A client of a scheduler in a pod, whose workers are pods. The operator replaces those that die.

    Args:
        path: the profile's file.
        workers, threads, demand: see ``cluster.connect.connect``.

    Raises:
        WsiPipelineError: the profile names no image, dask-kubernetes is missing, or the cluster does not answer.
    """
    import dask
    from distributed import Client

    profile = load_profile("kubernetes", path, KubernetesProfile)
    wish = Wish(workers or profile.workers, threads=READ_AHEAD_THREADS, demand=demand)
    described = manifest(profile, threads, wish())
    operator = _library()
    with dask.config.set(SETTINGS):
        try:
            cluster = operator.KubeCluster(
                custom_cluster_spec=described, namespace=profile.namespace, shutdown_on_close=True, quiet=True
            )
        except Exception as error:  # whatever its three client libraries raise
            raise WsiPipelineError(
                f"no Dask cluster can be made ({error})",
                where="kubernetes",
                fix="Check that kubectl reaches the cluster and that the Dask operator is installed in it",
            ) from None
        with cluster, Client(cluster) as client, _followed(cluster, wish, profile.interval):
            if profile.gpu.pods:
                cluster.add_worker_group("gpu", custom_spec=gpu_pods(profile, threads))
                demand.gpu = True
            yield client


def manifest(profile: KubernetesProfile, threads: int, count: int) -> dict[str, Any]:
    """The ``DaskCluster`` of a run with ``count`` worker pods.

    Raises:
        WsiPipelineError: the profile names no image.
    """
    if profile.image is None:
        raise WsiPipelineError(
            "the profile names no image", where="kubernetes", fix="Set image to one that holds wsi-pipeline"
        )
    described: dict[str, Any] = _library().make_cluster_spec(
        name=f"wsi-pipeline-{uuid4().hex[:8]}", image=profile.image, idle_timeout=IDLE_SECONDS
    )
    described["spec"]["worker"] = _pods(profile, threads, count, READ_AHEAD_THREADS, [], {})
    return described


def gpu_pods(profile: KubernetesProfile, threads: int) -> dict[str, Any]:
    """The group of workers with a GPU."""
    gpu = profile.gpu
    return _pods(profile, threads, gpu.pods, gpu.readers, ["--resources", f"{GPU}={gpu.readers}"], gpu.limits)


def _pods(
    profile: KubernetesProfile, threads: int, count: int, readers: int, arguments: list[str], limits: dict[str, Any]
) -> dict[str, Any]:
    from dask.config import merge
    from dask.utils import parse_bytes

    memory = parse_bytes(profile.memory)
    amounts = {"cpu": profile.cores, "memory": memory}
    command = ["dask", "worker", "--nthreads", str(readers), "--memory-limit", str(memory), *arguments]
    worker: dict[str, Any] = _library().make_worker_spec(
        image=profile.image,
        n_workers=count,
        resources={"requests": amounts | limits, "limits": amounts | limits},
        env=remote_environment(threads),
        worker_command=[*command, "--preload", "wsi_pipeline.cluster.worker"],
    )
    pod = worker["spec"]
    pod["containers"] = [merge(container, profile.container) for container in pod["containers"]]
    worker["spec"] = merge(pod, profile.pod)
    return worker


@contextmanager
def _followed(cluster: Any, wish: Wish, interval: float) -> Iterator[None]:
    """Scale the cluster as the demand changes."""
    stop = threading.Event()

    def follow() -> None:
        asked = wish()
        while not stop.wait(interval):
            if (wished := wish()) != asked:
                cluster.scale(wished)
                asked = wished

    thread = threading.Thread(target=follow, name="pods", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _library() -> Any:
    try:
        from dask_kubernetes import operator
    except ImportError:
        raise WsiPipelineError(
            "dask-kubernetes is not installed", where="kubernetes", fix="Run pip install 'wsi-pipeline[kubernetes]'"
        ) from None
    return operator
