"""A clock for Dask that nobody can set.

Dask and Tornado take their deadlines from the wall clock. Where that is set back, a message to the workers waits until
the old time comes again; where it is set forward, workers seem to have been silent and are restarted.
"""

from __future__ import annotations

import sys
import time

_BEGAN = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds since the epoch as this process began to count them; only ever goes forward, at the rate of time."""
    return _BEGAN + time.monotonic()


def keep_steady_time() -> None:
    """Have Dask and Tornado take the time from ``steady_time`` in this process from now on."""
    from distributed import metrics
    from tornado.ioloop import IOLoop

    wall_clock = metrics.time
    # every module has imported the function by its name
    for name, module in list(sys.modules.items()):
        if name.startswith("distributed") and getattr(module, "time", None) is wall_clock:
            module.time = steady_time  # type: ignore[attr-defined]
    IOLoop.time = lambda self: steady_time()  # type: ignore[method-assign]
