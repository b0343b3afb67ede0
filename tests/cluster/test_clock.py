"""Dask's time goes on whatever becomes of the clock."""

from __future__ import annotations

import subprocess
import sys

SET_BACK = """
import time
set_back, wall = 0.0, time.time
time.time = lambda: wall() - set_back

from wsi_pipeline.cluster.clock import keep_steady_time

{keep}
from distributed import Client, LocalCluster

cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
client = Client(cluster)
assert client.submit(abs, -1).result(20) == 1
try:
    # a message is kept back for some milliseconds after the one before it: one of many pairs falls into them
    for number in range(40):
        client.submit(abs, -number, pure=False)
        time.sleep(0.001 * (number % 8))
        set_back += 86400.0
        client.submit(abs, -number, pure=False).result(4)
    print("goes on")
except TimeoutError:
    print("hangs")
import os
os._exit(0)
"""


def said(keep: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SET_BACK.format(keep=keep)], capture_output=True, text=True, timeout=90
    )
    return done.stdout.strip()


def test_messages_are_sent_when_the_clock_was_set_back() -> None:
    assert said("import distributed; keep_steady_time()") == "goes on"


def test_without_a_steady_clock_they_are_not() -> None:
    assert said("") == "hangs"


def test_steady_time_is_kept_once() -> None:
    from distributed import batched, scheduler

    from wsi_pipeline.cluster.clock import keep_steady_time, steady_time

    keep_steady_time()
    keep_steady_time()
    assert batched.time is scheduler.time is steady_time
    before = steady_time()
    assert steady_time() >= before
