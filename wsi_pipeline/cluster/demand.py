"""How many workers a run can use, and how many it shall have."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from wsi_pipeline.cluster.profile import Range

PATIENCE = 4
"""Looks in a row that have to find fewer tasks before workers are let go: the end of one slide is no end of the run."""


@dataclass(slots=True)
class Demand:
    """What a run still has to do, for adaptive scaling, and what it can count on.

    Dask's own adaptive scaling counts the tasks that its scheduler holds. A run hands them over a few at a time, so
    that figure says nothing about an archive; the coordinator knows better and keeps this one up to date.

    Attributes:
        tasks: tasks that wait or run; kept by the coordinator.
        gpu: whether workers with a GPU are there or will come, however long they wait in a queue; set by ``connect``.
    """

    tasks: int = 0
    gpu: bool = False


@dataclass(slots=True)
class Wish:
    """How many jobs, or pods, a run shall have now.

    Args:
        workers: worker processes: a number, or a range to move in.
        processes: worker processes in each job.
        threads: tasks that one worker process takes at a time.
        demand: what is left to do; read only where ``workers`` is a range.
    """

    workers: int | Range
    processes: int = 1
    threads: int = 1
    demand: Demand = field(default_factory=Demand)
    _looks: deque[int] = field(default_factory=lambda: deque(maxlen=PATIENCE))

    def __call__(self) -> int:
        """Look at the demand: more is wished at once, less only after ``PATIENCE`` looks."""
        if isinstance(self.workers, int):
            return math.ceil(self.workers / self.processes)
        wanted = math.ceil(self.demand.tasks / self.threads)
        wanted = min(max(wanted, self.workers.minimum), self.workers.maximum)
        self._looks.append(math.ceil(wanted / self.processes))
        return max(self._looks)
