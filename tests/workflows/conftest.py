"""Three small slides, what a plain run makes of them, and the environment that engines start the command in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

ENGINES = Path(__file__).parents[2] / "workflows"
NAMES = ("a", "b", "c")


@pytest.fixture(scope="session")
def archive(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three slides of 600 x 500 px."""
    folder = tmp_path_factory.mktemp("engines") / "archive"
    for seed, name in enumerate(NAMES):
        tools.write_tiff(folder / f"{name}.tif", tools.stained(600, 500, 40, seed))
    return folder


@pytest.fixture(scope="session")
def options(tools: Any) -> list[str]:
    """Words of ``run`` that keep it fast."""
    return tools.arguments(tools.threshold | {"tiling.batch": 2})


@pytest.fixture(scope="session")
def expected(tools: Any, archive: Path, options: list[str]) -> dict[str, dict[str, str]]:
    """Digests of every slide's results, of a run without an engine."""
    output = archive.parent / "plain"
    done = tools.call("run", archive, "-o", output, "--workers", 1, *options)
    assert done.code == 0, done.err
    return {name: tools.contents(output / name) for name in NAMES}


@pytest.fixture(scope="session")
def environment(tools: Any) -> dict[str, str]:
    """Where ``wsi-pipeline`` is found, and the plug-in model."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(tools.plugin)}
