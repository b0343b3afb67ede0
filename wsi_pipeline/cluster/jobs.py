"""The jobs of a run on a batch system: their scripts, and the system's commands."""

from __future__ import annotations

import asyncio
import getpass
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from wsi_pipeline.cluster.profile import Profile
from wsi_pipeline.cluster.worker import GPU, READ_AHEAD_THREADS, remote_environment
from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from dask_jobqueue.core import Job
    from distributed.security import Security

JOB_NAME = "wsi-pipeline"
COMMAND_SECONDS = 60
"""A batch system that does not answer for so long is asked again later."""

KEY_FILES = {"tls_ca_file": "ca.pem", "tls_worker_cert": "worker.pem", "tls_worker_key": "worker.key"}
"""Where the keys of a run lie in its folder, by Dask's names for them."""

_NO_JOBS = re.compile(r"\bno\b.*\bjobs?\b", re.IGNORECASE)
"""Some systems call it an error to have none."""

_NUMBER = re.compile(r"^\s*(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class System:
    """What dask-jobqueue calls things on one batch system.

    Attributes:
        job: the class of its jobs.
        account: the argument that names who pays; None where there is none.
        walltime: how a job's longest time is written; None where it cannot be given.
        queue: whether jobs are sent to a queue.
        logs: directives for what jobs print, where dask-jobqueue writes none.
    """

    job: str
    account: str | None
    walltime: str | None = "{hours:02}:{minutes:02}:{seconds:02}"
    queue: bool = True
    logs: tuple[str, ...] = ()


SYSTEMS = {
    "slurm": System("SLURMJob", "account"),
    "pbs": System("PBSJob", "account"),
    "lsf": System("LSFJob", "project", walltime="{hours:02}:{minutes:02}"),
    "sge": System("SGEJob", "project"),
    "oar": System("OARJob", "project", logs=("-O {logs}/%jobid%.out", "-E {logs}/%jobid%.err")),
    "htcondor": System("HTCondorJob", None, walltime=None, queue=False),
}


@dataclass(frozen=True, slots=True)
class JobKind:
    """What sets the jobs with a GPU apart from the others.

    Attributes:
        name: beginning of the workers' names.
        queue, cores, memory, directives: see ``profiles.yaml``.
        processes: worker processes in a job.
        threads: tasks that one of them takes at a time.
        resources: what Dask shall know its workers have.
    """

    name: str
    queue: str | None
    cores: int
    memory: str
    directives: list[str]
    processes: int = 1
    threads: int = READ_AHEAD_THREADS
    resources: dict[str, int] = field(default_factory=dict)


def cpu_jobs(profile: Profile, threads: int) -> JobKind:
    """Jobs whose worker processes have ``threads`` cores each."""
    processes = profile.processes or max(1, profile.cores // threads)
    return JobKind("cpu", profile.queue, profile.cores, profile.memory, profile.directives, processes)


def gpu_jobs(profile: Profile) -> JobKind:
    """Jobs with one worker process that has a GPU."""
    gpu = profile.gpu
    return JobKind(
        "gpu",
        gpu.queue or profile.queue,
        gpu.cores or profile.cores,
        gpu.memory or profile.memory,
        [*profile.directives, *gpu.directives],
        threads=gpu.readers,
        resources={GPU: gpu.readers},
    )


@dataclass(frozen=True, slots=True)
class JobQueue:
    """The jobs of one run.

    Attributes:
        system: a key of ``SYSTEMS``.
        profile: what the jobs ask for.
        threads: threads of the numerical libraries in each worker process.
        scheduler: address of the Dask scheduler.
        logs: folder for what the jobs print.
        security: Dask's, with its keys in files that the nodes see; None for none.
    """

    system: str
    profile: Profile
    threads: int
    scheduler: str
    logs: Path
    security: Security | None = None

    def script(self, kind: JobKind, name: str) -> str:
        """The script of a job, as the batch system gets it."""
        return f"{self._job(kind, name).job_script().rstrip()}\n"

    def submit(self, kind: JobKind, name: str) -> str:
        """Submit a job.

        Returns:
            Its number.

        Raises:
            WsiPipelineError: the system refuses it.
        """
        job = self._job(kind, name)
        try:
            asyncio.run(job.start())
        except (RuntimeError, ValueError, OSError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise WsiPipelineError(
                f"the job was refused: {lines[-1]}",
                where=self.system,
                fix="Correct the cluster profile; `wsi-pipeline cluster script` shows what it makes",
            ) from None
        return str(job.job_id)

    def unfinished(self) -> set[str] | None:
        """The numbers of the user's jobs that wait or run; None when the system does not answer."""
        try:
            done = _call(self.profile.status.replace("{user}", getpass.getuser()))
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode != 0 and not _NO_JOBS.search(done.stderr):
            return None
        return set(_NUMBER.findall(done.stdout))

    def cancel(self, jobs: Iterable[str]) -> None:
        """End jobs; those that ended already are no mistake."""
        if numbers := list(jobs):
            # a system that does not answer does no harm: workers that find no coordinator end their job
            with suppress(OSError, subprocess.TimeoutExpired):
                _call(f"{_job_class(self.system).cancel_command} {shlex.join(numbers)}")

    def last_line(self, job: str) -> str | None:
        """The last line that a job printed, with the file it stands in."""
        ours = re.compile(rf"(?<!\d){re.escape(job)}(?!\d)")
        logs = [path for path in self.logs.iterdir() if ours.search(path.name)]
        for path in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True):
            lines = path.read_text(errors="replace").split("\n")
            if said := [line.strip() for line in lines if line.strip()]:
                return f"{said[-1]} ({path})"
        return None

    def _job(self, kind: JobKind, name: str) -> Job:
        profile, system = self.profile, SYSTEMS[self.system]
        options: dict[str, Any] = {
            "cores": kind.cores,
            "memory": kind.memory,
            "processes": kind.processes,
            "job_name": JOB_NAME,
            "python": profile.python or sys.executable,
            "interface": profile.interface,
            "local_directory": profile.scratch,
            "death_timeout": f"{profile.death_timeout:g}",
            "log_directory": str(self.logs),
            "security": self.security,
            "job_script_prologue": [*profile.prologue, *_exports(self.threads)],
            "job_extra_directives": self._directives(kind),
            "worker_extra_args": _worker_arguments(profile, kind),
        }
        if system.queue:
            options["queue"] = kind.queue
        if system.account:
            options[system.account] = profile.account
        if system.walltime:
            options["walltime"] = _clock(profile.walltime, system.walltime)
        # dask-jobqueue gives every thread a core of its own; ours read ahead while one of them computes
        base = _job_class(self.system)
        job = type(base.__name__, (base,), {"worker_process_threads": kind.threads})
        made: Job = job(self.scheduler, name=name, **options | profile.options)
        return made

    def _directives(self, kind: JobKind) -> list[str] | dict[str, str]:
        logs = [line.format(logs=self.logs) for line in SYSTEMS[self.system].logs]
        if self.system != "htcondor":
            return [*logs, *kind.directives]
        pairs = (line.partition("=") for line in kind.directives)
        return {name.strip(): value.strip() for name, _, value in pairs}


def check_system(system: str) -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        WsiPipelineError: dask-jobqueue or the system's submit command is missing.
    """
    command = str(_job_class(system).submit_command).split()[0]
    if shutil.which(command) is None:
        raise WsiPipelineError(
            f"there is no {command} here", where=system, fix="Start the run where jobs can be submitted"
        )


def scripts(system: str, profile: Profile, threads: int) -> list[str]:
    """The scripts that a run would submit, one for each kind of job; what is known later is in capitals."""
    from distributed.security import Security

    folder = Path(profile.folder or "FOLDER") / "RUN"
    keys = {name: str(folder / file) for name, file in KEY_FILES.items()}
    security = Security(require_encryption=True, **keys) if profile.security else None
    address = f"{'tls' if profile.security else 'tcp'}://COORDINATOR:PORT"
    kinds = [cpu_jobs(profile, threads), *([gpu_jobs(profile)] if profile.gpu.jobs else [])]
    # dask-jobqueue makes the folder of the logs as it writes a script
    with TemporaryDirectory() as logs:
        queue = JobQueue(system, profile, threads, address, Path(logs), security)
        return [queue.script(kind, f"{kind.name}-0").replace(logs, str(folder)) for kind in kinds]


def _job_class(system: str) -> type[Job]:
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        module = import_module("dask_jobqueue")
    except ImportError:
        raise WsiPipelineError(
            "dask-jobqueue is not installed", where=system, fix="Run pip install 'wsi-pipeline[cluster]'"
        ) from None
    if signal.getsignal(signal.SIGINT) is not interrupted:
        # it takes Ctrl-C for itself as it is imported, which is before any other thread asks
        signal.signal(signal.SIGINT, interrupted)
    job: type[Job] = getattr(import_module(f"{module.__name__}.{system}"), SYSTEMS[system].job)
    return job


def _worker_arguments(profile: Profile, kind: JobKind) -> list[str]:
    arguments = ["--lifetime", f"{profile.lifetime:g}s", "--lifetime-stagger", f"{profile.stagger:g}s"]
    arguments += ["--no-dashboard", "--preload", "wsi_pipeline.cluster.worker"]
    if kind.resources:
        arguments += ["--resources", ",".join(f"{name}={count}" for name, count in kind.resources.items())]
    return arguments


def _exports(threads: int) -> list[str]:
    return [f"export {name}={value}" for name, value in remote_environment(threads).items()]


def _clock(seconds: float, form: str) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return form.format(hours=minutes // 60, minutes=minutes % 60, seconds=rest)


def _call(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
