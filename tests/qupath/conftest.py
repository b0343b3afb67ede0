"""Shapes of the table in QuPath's import rules, and JTS where a JDK has it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely

_JAR = Path("/usr/share/java/jts-core.jar")


def _square(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]


def _polygon(shell, *holes):
    return shapely.Polygon(shell, list(holes))


SHAPES = {
    "square": _polygon(_square(0, 0, 10, 10)),
    "bow-tie": _polygon([(0, 0), (10, 10), (10, 0), (0, 10), (0, 0)]),
    "lopsided bow-tie": _polygon([(0, 0), (10, 7), (10, 0), (0, 10), (0, 0)]),
    "loop": _polygon([(0, 0), (10, 0), (10, 10), (-5, 10), (-5, 5), (5, 5), (5, 15), (0, 15), (0, 0)]),
    "hole outside": _polygon(_square(0, 0, 10, 10), _square(20, 20, 30, 30)),
    "overlapping parts": shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(5, 5, 15, 15)]),
    "spike": _polygon([(0, 0), (10, 0), (10, 5), (20, 5), (10, 5), (10, 10), (0, 10), (0, 0)]),
    "pinch": _polygon([(0, 0), (10, 0), (10, 10), (20, 10), (20, 20), (10, 20), (10, 10), (0, 10), (0, 0)]),
    "hole on the edge": _polygon(_square(0, 0, 10, 10), _square(0, 2, 5, 5)),
    "hole touching in a point": _polygon(_square(0, 0, 10, 10), [(0, 5), (3, 3), (3, 7), (0, 5)]),
    "hole in a hole": _polygon(_square(0, 0, 100, 100), _square(10, 10, 90, 90), _square(20, 20, 80, 80)),
    "traced twice": _polygon(_square(0, 0, 10, 10) + _square(0, 0, 10, 10)[1:]),
    "parts sharing an edge": shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(10, 0, 20, 10)]),
    "parts touching at a corner": shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(10, 10, 20, 20)]),
    "on one line": _polygon([(0, 0), (5, 5), (10, 10), (0, 0)]),
    "below the grid": shapely.box(0, 0, 0.001, 0.001),
}
"""One shape for each row of the import rules."""

REFUSED = {"bow-tie", "lopsided bow-tie", "loop", "hole outside", "overlapping parts"}
EMPTIED = {"on one line", "below the grid"}


@pytest.fixture
def shapes() -> dict[str, shapely.Geometry]:
    return dict(SHAPES)


@pytest.fixture(scope="session")
def jts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[np.ndarray], list[str]]:
    """Reduce geometries with the real JTS: a line "ok AREA VALID" or "throws" for each."""
    if shutil.which("javac") is None or not _JAR.is_file():
        pytest.skip("needs a JDK and Debian's libjts-java")
    folder = tmp_path_factory.mktemp("jts")
    source = Path(__file__).parent / "jts" / "Reduce.java"
    subprocess.run(["javac", "-cp", str(_JAR), "-d", str(folder), str(source)], check=True, capture_output=True)

    def reduce(geometries: np.ndarray) -> list[str]:
        text = "\n".join(shapely.to_wkt(geometries, rounding_precision=-1)) + "\n"
        command = ["java", "-Xmx256m", "-cp", f"{_JAR}:{folder}", "Reduce"]
        return subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout.splitlines()

    return reduce


@pytest.fixture
def refused() -> set[str]:
    """Shapes on which QuPath throws."""
    return set(REFUSED)


@pytest.fixture
def emptied() -> set[str]:
    """Shapes of which QuPath keeps nothing."""
    return set(EMPTIED)
