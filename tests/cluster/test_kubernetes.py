"""What Kubernetes is asked for; the library that makes the manifests is replaced by a few lines."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from wsi_pipeline.cluster.demand import Demand, Wish
from wsi_pipeline.cluster.kubernetes import _followed, gpu_pods, manifest
from wsi_pipeline.cluster.profile import KubernetesProfile, Range, load_profile
from wsi_pipeline.errors import WsiPipelineError


def make_worker_spec(**asked: Any) -> dict[str, Any]:
    container = {"name": "worker", "args": asked["worker_command"], "env": asked["env"], "image": asked["image"]}
    return {
        "replicas": asked["n_workers"],
        "spec": {"containers": [container | {"resources": asked["resources"]}]},
    }


def make_cluster_spec(**asked: Any) -> dict[str, Any]:
    return {"metadata": {"name": asked["name"]}, "spec": {"idleTimeout": asked["idle_timeout"], "worker": {}}}


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = SimpleNamespace(make_worker_spec=make_worker_spec, make_cluster_spec=make_cluster_spec)
    monkeypatch.setitem(sys.modules, "dask_kubernetes", SimpleNamespace(operator=operator))


def profile(**keys: Any) -> KubernetesProfile:
    shipped = load_profile("kubernetes", None, KubernetesProfile)
    return shipped.model_copy(update={"image": "lab/wsi:1"} | keys)


def container_of(worker: dict[str, Any]) -> dict[str, Any]:
    (container,) = worker["spec"]["containers"]
    return container


def test_workers_are_as_those_elsewhere() -> None:
    made = manifest(profile(cores=6), threads=2, count=3)
    worker = made["spec"]["worker"]
    container = container_of(worker)
    assert worker["replicas"] == 3
    assert container["env"]["OMP_NUM_THREADS"] == "2"
    assert container["resources"]["limits"] == {"cpu": 6, "memory": 16 * 10**9}
    assert " ".join(container["args"]).startswith("dask worker --nthreads 2 --memory-limit 16000000000 --preload ")


def test_pods_can_be_told_more() -> None:
    volumes, mounts = [{"name": "shared"}], [{"name": "shared", "mountPath": "/shared"}]
    made = profile(pod={"volumes": volumes}, container={"volumeMounts": mounts})
    worker = manifest(made, threads=1, count=1)["spec"]["worker"]
    assert worker["spec"]["volumes"] == volumes
    assert container_of(worker)["volumeMounts"] == mounts
    assert container_of(worker)["image"] == "lab/wsi:1"


def test_gpu_pods_ask_for_a_gpu_and_say_they_have_one() -> None:
    shipped = profile()
    worker = gpu_pods(shipped.model_copy(update={"gpu": shipped.gpu.model_copy(update={"pods": 2})}), threads=1)
    assert worker["replicas"] == 2
    assert container_of(worker)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "GPU=2" in container_of(worker)["args"]


def test_profile_without_an_image_is_said() -> None:
    with pytest.raises(WsiPipelineError, match="names no image"):
        manifest(profile(image=None), threads=1, count=1)


def test_cluster_is_scaled_with_the_demand() -> None:
    demand, asked, done = Demand(1), list[int](), threading.Event()

    def scale(count: int) -> None:
        asked.append(count)
        done.set()

    wish = Wish(Range(minimum=1, maximum=8), demand=demand)
    with _followed(SimpleNamespace(scale=scale), wish, interval=0.01):
        demand.tasks = 100
        assert done.wait(10)
    assert asked == [8]
