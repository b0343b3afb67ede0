"""What a worker says about the place it runs in."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.cluster.local import available_cores

JOB_NUMBERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "OAR_JOB_ID", "_CONDOR_JOB_ID", "JOB_ID")
"""Where batch systems tell a job its number."""

ANSWER = ".answer"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs.

    Attributes:
        host: name of the machine.
        job: number of the job, where there is one.
        cores: CPU cores it may use.
        memory: bytes it may use, as Dask counts them.
        gpu: name of the GPU that torch sees.
        sees_output: whether it could read the coordinator's file and write one beside it.
    """

    host: str
    job: str | None
    cores: int
    memory: int
    gpu: str | None
    sees_output: bool


def look_around(question: Path) -> Place:
    """Describe the worker that this runs on.

    Args:
        question: file that the coordinator wrote in the output folder; the answer is written beside it.
    """
    import torch
    from distributed import get_worker

    return Place(
        host=socket.gethostname(),
        job=next((os.environ[name] for name in JOB_NUMBERS if name in os.environ), None),
        cores=available_cores(),
        memory=get_worker().memory_manager.memory_limit or 0,
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        sees_output=_answer(question),
    )


def _answer(question: Path) -> bool:
    try:
        question.with_suffix(ANSWER).write_text(question.read_text(encoding="ascii"), encoding="ascii")
    except OSError:
        return False
    return True
