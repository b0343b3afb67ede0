"""The Nextflow script: run where Nextflow can be, and read as closely as can be where it cannot."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from wsi_pipeline.cli.app import app

NEXTFLOW = Path(__file__).parents[2] / "workflows" / "nextflow"
SCRIPT, CONFIG = (NEXTFLOW / name for name in ("main.nf", "nextflow.config"))


def nextflow_works() -> bool:
    """Whether there is more of Nextflow than its launcher, which fetches the rest."""
    found = shutil.which("nextflow")
    return found is not None and subprocess.run([found, "-version"], capture_output=True).returncode == 0


def parsed(values: dict[str, str]) -> dict[str, Any]:
    """What ``wsi-pipeline`` makes of the command in the script, with values for its expressions."""
    (body,) = re.findall(r'"""(.*?)"""', SCRIPT.read_text(), re.DOTALL)
    lines = re.sub(r"\$\{(.*?)\}", lambda match: values[match[1]], body).replace("\\\\\n", " ").strip().splitlines()
    (words,) = [shlex.split(line)[1:] for line in lines if line.split()[0] == "wsi-pipeline"]
    run = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    return run.make_context("run", words[1:]).params


def test_script_says_what_the_command_takes() -> None:
    values = {
        "quoted(workflow.launchDir)": "'/launch'",
        "quoted(params.slides)": "'one.svs' 'two.svs'",
        "quoted(params.workflow)": "'tissue'",
        "quoted(params.output)": "'some where'",
        "index": "2",
        "count": "3",
        "task.cpus": "4",
        "params.options": "--set tiling.batch=4",
    }
    found = parsed(values)
    assert found["slides"] == ["one.svs", "two.svs"]
    assert (found["workflow"], found["output"]) == ("tissue", Path("some where"))
    assert (found["shard"], found["workers"], found["settings"]) == ("2/3", 4, ["tiling.batch=4"])


def test_every_parameter_has_a_default_and_is_used() -> None:
    (block,) = re.findall(r"^params \{(.*?)^\}", CONFIG.read_text(), re.DOTALL | re.MULTILINE)
    given = set(re.findall(r"^ +(\w+) =", block, re.MULTILINE))
    assert given == set(re.findall(r"params\.(\w+)", SCRIPT.read_text()))


def test_every_label_has_resources() -> None:
    named, given = re.findall(r"label '(\w+)'", SCRIPT.read_text()), re.findall(r"withLabel: (\w+)", CONFIG.read_text())
    assert named == given == ["segmentation"]


@pytest.mark.slow
@pytest.mark.skipif(not nextflow_works(), reason="Nextflow is not installed, or only its launcher")
def test_shards_write_what_one_run_writes(
    tools: Any, archive: Path, options: list[str], expected: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "small.config").write_text("process { withLabel: segmentation { cpus = 1; memory = 1.GB } }\n")
    words = ["nextflow", "run", str(SCRIPT), "-c", "small.config", "--slides", str(archive), "--shards", "2"]
    done = subprocess.run(
        [*words, "--options", shlex.join(options)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: tools.contents(tmp_path / "out" / name) for name in expected} == expected
