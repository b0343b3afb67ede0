"""What batch systems are asked for, and what their commands answer."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.cluster.jobs import SYSTEMS, JobQueue, cpu_jobs, gpu_jobs, scripts
from wsi_pipeline.cluster.profile import Profile, load_profile
from wsi_pipeline.cluster.security import keys_in
from wsi_pipeline.errors import WsiPipelineError

KIND_KEYS = {"cores": 8, "memory": "32GB", "python": "/lab/python", "folder": "/lab/jobs", "scratch": "$TMPDIR"}


def profile_of(system: str, **keys: Any) -> Profile:
    shipped = load_profile(system, None, Profile)
    return Profile.model_validate(shipped.model_dump() | DURATIONS | KIND_KEYS | keys)


DURATIONS = {
    "walltime": "4h",
    "lifetime_margin": "5min",
    "stagger": "2min",
    "death_timeout": "60s",
    "interval": "15s",
}


@pytest.fixture
def queue(tmp_path: Path, commands: Path) -> JobQueue:
    return JobQueue("slurm", profile_of("slurm"), 1, "tcp://10.0.0.1:8786", tmp_path)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands found before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_gets_a_script_that_starts_the_worker(system: str) -> None:
    (text,) = scripts(system, profile_of(system, queue="long", account="lab"), 2)
    assert "export OMP_NUM_THREADS=2" in text
    assert "/lab/python -m distributed.cli.dask_worker tls://COORDINATOR:PORT --name cpu-0 --nthreads 2 " in text
    assert "--nworkers 4 " in text, "one process for every two of the eight cores"
    assert "--lifetime 14100s --lifetime-stagger 120s" in text, "five minutes before the four hours are over"
    assert "--death-timeout 60 " in text
    assert "--tls-key /lab/jobs/RUN/worker.key" in text
    assert "--local-directory $TMPDIR" in text
    assert "GPU" not in text


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        ("slurm", ["#SBATCH -p long", "#SBATCH -A lab", "#SBATCH --cpus-per-task=8", "#SBATCH -t 04:00:00"]),
        ("pbs", ["#PBS -q long", "#PBS -A lab", "#PBS -l select=1:ncpus=8:mem=30GB", "#PBS -l walltime=04:00:00"]),
        ("lsf", ["#BSUB -q long", '#BSUB -P "lab"', "#BSUB -n 8", "#BSUB -W 04:00"]),
        ("sge", ["#$ -q long", "#$ -P lab", "#$ -l h_rt=04:00:00"]),
        (
            "oar",
            [
                "#OAR -O /lab/jobs/RUN/%jobid%.out",
                "#OAR -q long",
                "#OAR --project lab",
                "#OAR -l /nodes=1/core=8,walltime=04:00:00",
            ],
        ),
        ("htcondor", ["MY.DaskWorkerCores = 8", "MY.DaskWorkerMemory = 32000000000"]),
    ],
)
def test_script_asks_in_the_words_of_the_system(system: str, lines: list[str]) -> None:
    (text,) = scripts(system, profile_of(system, queue="long", account="lab"), 1)
    assert [line for line in lines if line not in text.splitlines()] == []


def test_printing_a_script_makes_no_folder(tmp_path: Path) -> None:
    scripts("slurm", profile_of("slurm", folder=str(tmp_path / "jobs")), 1)
    assert not (tmp_path / "jobs").exists()


def test_gpu_jobs_have_one_process_that_says_so() -> None:
    gpu = {"jobs": 1, "queue": "gpu", "cores": 3, "memory": "20GB", "directives": ["--gres=gpu:1"], "readers": 3}
    profile = profile_of("slurm", directives=["--exclusive"], gpu=gpu)
    cpu_text, gpu_text = scripts("slurm", profile, 1)
    assert "--resources GPU=3" in gpu_text
    assert "--nthreads 3 " in gpu_text
    assert "--nworkers" not in gpu_text
    assert re.findall(r"^#SBATCH (?:-p|--).*$", gpu_text, re.MULTILINE) == [
        "#SBATCH -p gpu",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --mem=19G",
        "#SBATCH --exclusive",
        "#SBATCH --gres=gpu:1",
    ]
    assert "--gres" not in cpu_text


def test_gpu_jobs_are_like_the_others_where_the_profile_says_no_more() -> None:
    profile = profile_of("slurm", queue="long")
    cpu, gpu = cpu_jobs(profile, 1), gpu_jobs(profile)
    assert (gpu.queue, gpu.cores, gpu.memory) == (cpu.queue, cpu.cores, cpu.memory)


def test_prologue_comes_before_the_threads_are_set() -> None:
    (text,) = scripts("slurm", profile_of("slurm", prologue=["module load python"]), 1)
    assert text.index("module load python") < text.index("export OMP_NUM_THREADS=1")


def test_directive_of_htcondor_is_a_key_and_a_value() -> None:
    (text,) = scripts("htcondor", profile_of("htcondor", directives=["accounting_group = lab"]), 1)
    assert "accounting_group = lab" in text.splitlines()


def test_options_of_dask_jobqueue_can_be_given() -> None:
    (text,) = scripts("slurm", profile_of("slurm", options={"job_cpu": 16}), 1)
    assert "#SBATCH --cpus-per-task=16" in text


def test_submitted_job_is_known_by_its_number(queue: JobQueue, commands: Path) -> None:
    command(commands, "sbatch", "echo Submitted batch job 1234")
    assert queue.submit(cpu_jobs(queue.profile, 1), "cpu-0") == "1234"


def test_refusal_is_one_line_with_the_systems_own_words(queue: JobQueue, commands: Path) -> None:
    command(commands, "sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    with pytest.raises(WsiPipelineError) as caught:
        queue.submit(cpu_jobs(queue.profile, 1), "cpu-0")
    assert str(caught.value).startswith("slurm: the job was refused: sbatch: error: invalid partition specified: x.")


@pytest.mark.parametrize(
    ("script", "numbers"),
    [
        ("echo 12; echo 13", {"12", "13"}),
        ("true", set()),
        ("echo 'job-ID prior name'; echo '------'; echo '   77 0.5 worker'", {"77"}),
        ("echo '1234.server user'; echo '1235[].server user'", {"1234", "1235"}),
        ("echo 'No unfinished job found' >&2; exit 255", set()),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", None),
        ("echo 'connection refused' >&2; exit 1", None),
    ],
)
def test_unfinished_jobs_are_read_from_any_listing(
    queue: JobQueue, commands: Path, script: str, numbers: set[str] | None
) -> None:
    command(commands, "squeue", script)
    assert queue.unfinished() == numbers


def test_jobs_are_cancelled_with_one_command(queue: JobQueue, commands: Path, tmp_path: Path) -> None:
    command(commands, "scancel", f"echo $* >> {tmp_path}/cancelled")
    queue.cancel(["1", "2"])
    queue.cancel([])
    assert (tmp_path / "cancelled").read_text() == "1 2\n"


def test_last_line_of_a_job_is_found_by_its_number(queue: JobQueue, tmp_path: Path) -> None:
    (tmp_path / "wsi-pipeline-12.out").write_text("")
    (tmp_path / "wsi-pipeline-12.err").write_text("first\nNo module named wsi_pipeline\n\n")
    (tmp_path / "wsi-pipeline-112.err").write_text("another job\n")
    assert queue.last_line("12") == f"No module named wsi_pipeline ({tmp_path / 'wsi-pipeline-12.err'})"
    assert queue.last_line("2") is None


def test_keys_can_be_read_by_their_owner_only_and_go_with_the_run(tmp_path: Path) -> None:
    with keys_in(tmp_path) as (own, theirs):
        files = sorted(tmp_path.iterdir())
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert theirs.get_tls_config_for_role("worker")["key"] == str(tmp_path / "worker.key")
        assert "PRIVATE KEY" in own.tls_scheduler_key
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stays_with_the_run() -> None:
    code = """
import signal
from concurrent.futures import ThreadPoolExecutor

from wsi_pipeline.cluster.jobs import scripts
from wsi_pipeline.cluster.profile import Profile, load_profile

before = signal.getsignal(signal.SIGINT)
assert scripts("slurm", load_profile("slurm", None, Profile), 1)
assert signal.getsignal(signal.SIGINT) is before
with ThreadPoolExecutor() as other:  # jobs are replaced by one
    assert other.submit(scripts, "slurm", load_profile("slurm", None, Profile), 1).result()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
