"""Worker processes on this machine are there as long as the run is."""

from __future__ import annotations

from operator import add

import pytest

from wsi_pipeline.cluster import local


def test_worker_that_dask_gave_up_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.2)
    with local.local_workers(workers=1, threads=1, dashboard=False) as client:
        cluster = client.cluster
        lost = cluster.workers[0]
        client.sync(lost.close)
        assert client.submit(add, 2, 3).result(timeout=60) == 5
        assert lost not in cluster.workers.values()


def test_only_as_many_workers_are_started_as_were_wished_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.05)
    with local.local_workers(workers=2, threads=1, dashboard=False) as client:
        there = dict(client.cluster.workers)
        assert client.submit(add, 2, 3).result(timeout=60) == 5
        assert client.cluster.workers == there
