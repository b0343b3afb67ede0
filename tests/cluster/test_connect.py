"""Where a run can go, and what it says when it cannot."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from wsi_pipeline.cluster.connect import CLUSTERS, connect
from wsi_pipeline.cluster.jobs import SYSTEMS
from wsi_pipeline.errors import WsiPipelineError


def why_not(cluster: str, profile: Path | None = None) -> str:
    with pytest.raises(WsiPipelineError) as caught, connect(cluster, profile=profile):
        pass
    return str(caught.value)


def test_unknown_cluster_is_answered_with_those_there_are() -> None:
    said = why_not("slrum")
    assert said.startswith("slrum: is no cluster. Give local, slurm, ")
    assert all(name in said for name in CLUSTERS)


def test_address_where_nobody_listens_is_said() -> None:
    assert "no Dask scheduler answers" in why_not("nonsense:")


@pytest.mark.parametrize("system", SYSTEMS)
def test_machine_that_cannot_submit_is_said(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "Start the run where jobs can be submitted" in why_not(system)


@pytest.mark.parametrize(
    ("system", "module", "extra"),
    [("slurm", "dask_jobqueue", "cluster"), ("kubernetes", "dask_kubernetes", "kubernetes")],
)
def test_missing_extra_is_named(
    system: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text("slurm: {}\nkubernetes: {image: lab/wsi}\n")
    monkeypatch.setitem(sys.modules, module, None)
    assert f"pip install 'wsi-pipeline[{extra}]'" in why_not(system, profile)


def test_dashboard_without_its_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_pipeline.cluster.connect.find_spec", lambda name: None)
    with pytest.raises(WsiPipelineError, match="needs the package bokeh"), connect(dashboard=True):
        pass


def test_local_workers_have_their_threads_whatever_the_shell_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with connect(workers=1, threads=2) as client:
        assert set(client.run(os.getenv, "OMP_NUM_THREADS").values()) == {"2"}
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
    assert os.environ["OMP_NUM_THREADS"] == "7"


def slow_pid(number: int) -> int:
    time.sleep(0.02)
    return os.getpid()


@pytest.mark.slow
def test_worker_that_hangs_is_replaced_and_its_tasks_go_elsewhere() -> None:
    import dask

    with dask.config.set({"distributed.scheduler.worker-ttl": "1s"}), connect(workers=2) as client:
        stopped, other = client.run(os.getpid).values()
        tasks = client.map(slow_pid, range(100), pure=False)
        os.kill(stopped, signal.SIGSTOP)
        assert other in client.gather(tasks)
        end = time.monotonic() + 60
        while psutil.pid_exists(stopped) or len(client.nthreads()) < 2:
            assert time.monotonic() < end
            time.sleep(0.1)
