"""Every command does what its help says."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from wsi_pipeline.workflow import workflow_folder

COMMANDS = [
    *(["run"], ["demo"], ["inspect"], ["prompts"], ["export"], ["validate"], ["evaluate"], ["train"], ["doctor"]),
    *(["models", name] for name in ("list", "fetch", "verify", "import", "show")),
    *(["workflows", name] for name in ("list", "show", "check", "schema")),
    ["dataset", "inspect"],
]
WORKFLOWS = sorted(path.stem for path in workflow_folder().glob("*.yaml"))
HEAVY = {"torch", "zarr", "numpy", "dask", "distributed", "shapely", "openslide", "tifffile", "scipy", "skimage", "PIL"}


@pytest.fixture(scope="module")
def cmu() -> Path:
    return Path(str(resources.files("wsi_pipeline") / "data" / "CMU-1-Small-Region.svs"))


@pytest.fixture(scope="module")
def slide(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tools.write_tiff(tmp_path_factory.mktemp("slide") / "ovals.tif", tools.stained(600, 500, 60))


@pytest.fixture(scope="module")
def discs(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three dark discs, one in each of the ``annotations``."""
    image = tools.stained(600, 500, 0)
    y, x = np.mgrid[:500, :600]
    for cx, cy in ((160, 160), (365, 168), (160, 410)):
        image[(x - cx) ** 2 + (y - cy) ** 2 < 45**2] = (98, 66, 138)
    return tools.write_tiff(tmp_path_factory.mktemp("discs") / "ovals.tif", image)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boxes and an outline as QuPath writes them."""

    def feature(number: int, kind: str, coordinates: Any, **properties: Any) -> dict[str, Any]:
        return {
            "type": "Feature",
            "id": f"7c3c9f0e-6c1e-4c2e-9a63-0d6f4a0b7f{number:02}",
            "geometry": {"type": kind, "coordinates": coordinates},
            "properties": {"objectType": "annotation"} | properties,
        }

    gland = {"name": "Gland", "color": [9, 99, 199]}
    tumour = {"names": ["Tumor", "Positive"], "color": [200, 0, 0]}
    box = [[100, 100], [220, 100], [220, 220], [100, 220], [100, 100]]
    outline = [[300, 100], [420, 110], [430, 230], [310, 240], [300, 100]]
    features = [
        feature(1, "Polygon", [box], classification=gland, name="left"),
        feature(2, "Polygon", [outline], classification=tumour, name="right", isLocked=True, metadata={"by": "me"}),
        feature(3, "Polygon", [[[x, y + 250] for x, y in box]]),
    ]
    path = tmp_path_factory.mktemp("prompts") / "ovals.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="module")
def finished(tools: Any, cluster: str, slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a slide done by ``nuclei``."""
    output = tmp_path_factory.mktemp("finished")
    words = tools.arguments(tools.threshold)
    result = tools.call_here("run", slide, "-w", "nuclei", "-o", output, "--cluster", cluster, *words)
    assert result.code == 0, result.err
    return output / "ovals"


def test_help_imports_nothing_heavy() -> None:
    script = f"""
import sys
from wsi_pipeline.cli import main
for words in {[[], *COMMANDS]}:
    sys.argv = ["wsi-pipeline", *words, "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
    heavy = sorted({HEAVY} & set(sys.modules))
    assert not heavy, (words, heavy)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_has_an_example(tools: Any, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = tools.call_here(*command, "--help")
    assert result.code == 0
    assert re.search(rf"Example: `?wsi-pipeline {' '.join(command)}", result.out), result.out


def test_version(tools: Any) -> None:
    from wsi_pipeline import __version__

    assert tools.call_here("--version").out == f"wsi-pipeline {__version__}\n"


def test_wrong_option_is_bad_input(tools: Any) -> None:
    result = tools.call_here("run", "--nonsense")
    assert result.code == 2
    assert "No such option: --nonsense" in result.err


def test_inspect_says_what_is_known_and_where_from(tools: Any, cmu: Path, tmp_path: Path) -> None:
    result = tools.call_here("inspect", cmu, "--thumbnail", tmp_path / "t.png")
    assert result.code == 0
    assert "2220 x 2967 px" in result.out
    assert "0.499 x 0.499 µm/px (from property)" in result.out
    assert (tmp_path / "t.png").stat().st_size > 10_000


def test_inspect_goes_on_after_a_bad_slide(tools: Any, cmu: Path, tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_text("no slide")
    result = tools.call_here("inspect", tmp_path / "a.svs", cmu)
    assert result.code == 3
    assert result.err.startswith(f"error: {tmp_path / 'a.svs'}: is no slide format")
    assert len(result.err.splitlines()) == 1
    assert str(cmu) in result.out


def test_prompts_are_counted_and_written(tools: Any, slide: Path, tmp_path: Path) -> None:
    output = tmp_path / "p.geojson"
    result = tools.call_here("prompts", slide, "-w", "nuclei", "-o", output, "--set", "tissue.method=none")
    assert result.code == 0, result.err
    count = int(re.search(r"(\d+)  box    Nucleus", result.out)[1])
    assert 40 <= count <= 62
    assert len(json.loads(output.read_text())["features"]) == count
    assert tools.call_here("validate", output).code == 0


def test_prompts_of_qupath_are_read_back(tools: Any, slide: Path, annotations: Path) -> None:
    result = tools.call_here("prompts", slide, "-w", "regions", "--prompts", annotations)
    assert result.code == 0
    assert sorted(line.split(maxsplit=1)[1] for line in result.out.splitlines()) == [
        "box    (no class)",
        "box    Gland",
        "mask   Tumor: Positive",
    ]


def test_validate_counts_and_refuses(tools: Any, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.geojson").write_text('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}')
    result = tools.call_here("validate", finished / "annotations.geojson", tmp_path / "bad.geojson")
    assert result.code == 2
    good, bad = result.out.splitlines()
    assert re.match(r"ok .*annotations\.geojson: \d+ detection, 1 annotation \(Nucleus", good)
    assert re.match(r"refused .*bad\.geojson: features\[0\].*geometry is missing", bad)


def test_export_writes_other_forms_of_the_same_objects(tools: Any, finished: Path, tmp_path: Path) -> None:
    import tifffile

    objects = json.loads((finished / "slide.json").read_text())["objects"]
    before = (finished / "annotations.geojson").read_bytes()
    same = tools.call_here("export", finished, "-o", tmp_path / "a.geojson")
    assert same.code == 0
    assert same.out.split() == [str(tmp_path / "a.geojson")]
    assert (tmp_path / "a.geojson").read_bytes() == before

    split = tools.call_here(
        "export", finished, "-o", tmp_path / "b.geojson", "--set", "max_objects_per_file=20", "--set", "gzip=true"
    )
    parts = [Path(line) for line in split.out.splitlines()]
    assert [path.suffix for path in parts] == [*[".gz"] * (len(parts) - 1), ".groovy"]
    assert len(parts) > 3

    assert tools.call_here("export", finished, "-f", "csv", "-o", tmp_path / "o.csv").code == 0
    assert len((tmp_path / "o.csv").read_text().splitlines()) == objects + 1
    assert tools.call_here("export", finished, "-f", "ome-tiff", "-o", tmp_path / "m.ome.tif").code == 0
    assert tifffile.imread(tmp_path / "m.ome.tif").max() > 0


def test_export_of_something_else_is_bad_input(tools: Any, finished: Path, tmp_path: Path) -> None:
    result = tools.call_here("export", tmp_path)
    assert result.code == 2
    assert f"{tmp_path}: is no finished slide" in result.err
    result = tools.call_here("export", finished, "--set", "zip=true")
    assert result.code == 2
    assert "unknown key export.zip" in result.err


def test_models_list_has_the_plug_in(tools: Any, plugin: None) -> None:
    result = tools.call_here("models", "list", "--json")
    names = [model["name"] for model in json.loads(result.out)["models"]]
    assert names == [
        "sam",
        "hq-sam",
        "pa-sam",
        "wsi-sam",
        "lora-sam",
        "domain-decoder",
        "matcher",
        "ov-sam",
        "sam-clip",
        "sam-clip-regions",
        "sapnet",
        "sapnet-select",
        "semantic-sam",
        "darkness",
        "granular",
        "threshold",
    ]


def test_workflows_are_listed_shown_checked_and_described(tools: Any, tmp_path: Path) -> None:
    listed = tools.call_here("workflows", "list").out
    assert [line.split()[0] for line in listed.splitlines()] == WORKFLOWS
    for name in WORKFLOWS:
        path = tmp_path / f"{name}.yaml"
        path.write_text(tools.call_here("workflows", "show", name).out)
        assert tools.call_here("workflows", "check", path).out == f"{path}: ok ({name})\n"
    schema = json.loads(tools.call_here("workflows", "schema").out)
    assert {"name", "mpp", "tissue", "tiling", "prompts", "segment", "stitch", "vectorize", "export"} <= set(
        schema["properties"]
    )


def test_workflow_check_names_the_wrong_key(tools: Any, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("name: mine\nmpp: 1\ntiling: {overlap: 3 kg}\n")
    result = tools.call_here("workflows", "check", tmp_path / "w.yaml")
    assert result.code == 2
    assert "tiling.overlap: '3 kg' needs the unit px, um or mm" in result.err


@pytest.mark.slow
def test_doctor_finds_everything_in_order(tools: Any) -> None:
    result = tools.call("doctor")
    assert result.code == 0, result.out + result.err
    assert all(line.startswith("ok ") for line in result.out.splitlines())
    assert "local cluster, one worker answered 3" in result.out
    assert result.err == ""


@pytest.mark.parametrize("workflow", ["nuclei", "tissue"])
def test_automatic_workflow_runs(
    tools: Any, cluster: str, slide: Path, finished: Path, tmp_path: Path, workflow: str
) -> None:
    folder = finished
    if workflow != "nuclei":
        result = tools.call_here("run", slide, "-w", workflow, "-o", tmp_path, "--cluster", cluster)
        assert result.code == 0, result.err
        folder = tmp_path / "ovals"
    assert tools.call_here("validate", folder / "annotations.geojson").code == 0
    kinds = {
        (feature["properties"]["objectType"], feature["properties"]["classification"]["name"])
        for feature in json.loads((folder / "annotations.geojson").read_text())["features"]
    }
    assert kinds == {("annotation", "Region*")} | ({("detection", "Nucleus")} if workflow == "nuclei" else set())
    assert (folder.parent / "report.html").read_text().count("overview of ovals") == 1


@pytest.mark.parametrize("workflow", ["refine-annotations", "regions"])
def test_workflow_on_annotations_keeps_ids_names_and_classes(
    tools: Any, cluster: str, discs: Path, annotations: Path, tmp_path: Path, workflow: str
) -> None:
    models = tools.refined if workflow == "refine-annotations" else tools.threshold
    words = tools.arguments(models | {"export.csv": True})
    result = tools.call_here(
        "run", discs, "-w", workflow, "--prompts", annotations, "-o", tmp_path, "--cluster", cluster, *words
    )
    assert result.code == 0, result.err
    folder = tmp_path / "ovals"
    assert tools.call_here("validate", folder / "annotations.geojson").code == 0
    asked = {feature["id"]: feature for feature in json.loads(annotations.read_text())["features"]}
    given = {f["id"]: f for f in json.loads((folder / "annotations.geojson").read_text())["features"]}
    assert set(given) == set(asked)
    for key, feature in asked.items():
        before, after = feature["properties"], given[key]["properties"]
        assert after["objectType"] == "annotation"
        assert after.get("name") == before.get("name")
        assert after.get("isLocked", False) == before.get("isLocked", False)
        assert names_of(after) == names_of(before)
        assert before.get("metadata", {}).items() <= after.get("metadata", {}).items()
        redrawn = shapely.geometry.shape(given[key]["geometry"])
        assert redrawn.area == pytest.approx(math.pi * 45**2, rel=0.05)
        assert redrawn.within(shapely.geometry.shape(feature["geometry"]).buffer(1))


def names_of(properties: dict[str, Any]) -> list[str]:
    found = properties.get("classification") or {}
    return found.get("names") or found.get("name", "").split(": ")
