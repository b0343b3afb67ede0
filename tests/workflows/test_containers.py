"""The two recipes of a container make the same thing, from files that are enough for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

parsers = pytest.importorskip("spython.main.parse.parsers", reason="spython is not installed")

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "workflows" / "containers"
DOCKERFILE, DEFINITION = CONTAINERS / "Dockerfile", CONTAINERS / "wsi-pipeline.def"


@pytest.fixture(scope="module")
def docker() -> dict[str, Any]:
    """The parsed stages of the Dockerfile; the parser names the last one by the first."""
    return parsers.DockerParser(str(DOCKERFILE)).recipe


@pytest.fixture(scope="module")
def apptainer() -> Any:
    """The parsed definition, which has a single stage."""
    (recipe,) = parsers.SingularityParser(str(DEFINITION)).recipe.values()
    return recipe


def test_linter_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_recipes_start_from_one_base_and_take_the_same_files(docker: Any, apptainer: Any) -> None:
    bases = {line.split()[1] for line in DOCKERFILE.read_text().splitlines() if line.startswith("FROM")}
    assert bases == {apptainer.fromHeader}
    assert sorted(file.split()[0] for file in apptainer.files) == sorted(copied(docker))


def test_both_recipes_install_the_same_and_run_the_command(docker: Any, apptainer: Any) -> None:
    (stage,) = docker.values()
    steps = " && ".join(apptainer.install).replace("/source[remote]", ".[remote]")
    assert "python -m venv /opt/wsi-pipeline && /opt/wsi-pipeline/bin/pip install --no-cache-dir '.[remote]'" in steps
    assert any(step in steps for step in stage.install if "pip install" in step)
    assert stage.entrypoint == ["wsi-pipeline"]
    assert apptainer.cmd == 'exec wsi-pipeline "$@"'
    assert "wsi-pipeline doctor" in DEFINITION.read_text().split("%test")[1]
    assert set(apptainer.environ) <= set(stage.environ)


def test_image_runs_as_nobody_special(docker: Any) -> None:
    (stage,) = docker.values()
    assert [step.strip() for step in stage.install if step.startswith("USER")] == ["USER 1000"]


def test_ignore_file_lets_through_what_is_copied(docker: Any) -> None:
    kept = (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in kept if line.startswith("!")} == set(copied(docker))


@pytest.mark.slow
def test_wheel_can_be_built_from_the_copied_files(docker: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in copied(docker):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"wsi_pipeline/_workflows/nuclei.yaml", "wsi_pipeline/weights/nuclei-litemedsam.safetensors"} <= names


def copied(docker: Any) -> list[str]:
    """Files and folders of the repository that the image is made of."""
    (stage,) = docker.values()
    return [source for source, _ in stage.files]
