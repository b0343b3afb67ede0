"""Whatever is wrong, it is one clear line and the right exit code, and the rest of the batch is finished."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

pytestmark = pytest.mark.slow

RESULTS = ("slide.json", "annotations.geojson", "objects.parquet", "overview.png")

FAIL = {
    "missing": r"no such file",
    "empty": r"is an empty file",
    "text": r"is no slide format known here",
    "truncated": r"truncated: copy it again",
    "cut": r"damaged",
    "corrupt": r"cannot read the region x=0 .*damaged there",
    "no-mpp": r"does not state its µm per pixel.*--mpp",
    "absurd-tags": r"means 2000 µm/px.*--mpp",
    "absurd": r"PhysicalSizeX of 500 mm.*out of 0.05 … 20|means 5e\+05 µm/px, out of 0.05 … 20",
}
"""Slides that cannot be done, and why."""

DONE = {"good": "done", "sixteen": "done", "grey": "empty", "cmyk": "done", "one": "empty", "blank": "empty"}
"""Slides that can, though they are odd, and how they end."""


def one_line(text: str) -> str:
    """The only line there is."""
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1, text
    return lines[0]


def spoil_tile(path: Path) -> None:
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[1], tif.pages[0].databytecounts[1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x55" * count)


def write_slides(folder: Path, tools: Any) -> list[Path]:
    image = tools.stained(600, 500, 60)
    good = tools.write_tiff(folder / "s" / "good.tif", image)
    (folder / "s" / "empty.svs").touch()
    (folder / "s" / "text.svs").write_text("patient,slide\n1,2\n")
    real = (resources.files("wsi_pipeline") / "data" / "CMU-1-Small-Region.svs").read_bytes()
    (folder / "s" / "truncated.svs").write_bytes(real[: len(real) * 6 // 10])
    (folder / "s" / "cut.tif").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    spoil_tile(tools.write_tiff(folder / "s" / "corrupt.tif", image))
    tools.write_tiff(folder / "s" / "no-mpp.tif", image, mpp=None)
    tools.write_tiff(folder / "s" / "absurd-tags.tif", image, mpp=2000)
    half_metre = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "mm", "PhysicalSizeY": 500, "PhysicalSizeYUnit": "mm"}
    tifffile.imwrite(
        folder / "s" / "absurd.ome.tif",
        image,
        tile=(256, 256),
        photometric="rgb",
        metadata={"axes": "YXS"} | half_metre,
    )
    tools.write_tiff(folder / "s" / "sixteen.tif", image.astype(np.uint16) * 257)
    tools.write_tiff(folder / "s" / "grey.tif", image.mean(axis=2).astype(np.uint8), photometric="minisblack")
    ink = np.dstack([255 - image, np.zeros(image.shape[:2], np.uint8)])
    tools.write_tiff(folder / "s" / "cmyk.tif", ink, photometric="separated")
    tools.write_tiff(folder / "s" / "one.tif", image[:1, :1], tile=None, compression=None)
    tools.write_tiff(folder / "s" / "blank.tif", np.full((500, 600, 3), 255, np.uint8))
    for twin in "ab":
        (folder / twin).mkdir()
        shutil.copy(good, folder / twin / "twin.tif")
    return [folder / "s", folder / "missing.svs", folder / "a" / "twin.tif", folder / "b" / "twin.tif"]


@pytest.fixture(scope="module")
def good(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tools.write_tiff(tmp_path_factory.mktemp("good") / "good.tif", tools.stained(600, 500, 60))


@pytest.fixture(scope="module")
def archive(tools: Any, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """One run over everything; the result and the output folder."""
    folder = tmp_path_factory.mktemp("archive")
    slides = write_slides(folder, tools)
    return tools.call_here("run", *slides, "-w", "tissue", "-o", folder / "out", "--cluster", cluster), folder / "out"


def test_run_with_bad_slides_ends_with_3_and_says_nothing_but_events(archive: Any) -> None:
    result, output = archive
    assert result.code == 3
    assert result.out == ""
    assert {name: event["state"] for name, event in result.slides().items() if not name.startswith("twin")} == (
        dict.fromkeys(FAIL, "failed") | DONE
    )
    report = (output / "report.html").read_text()
    assert report.index("absurd") < report.index("<b>blank") < report.index("<b>good")


@pytest.mark.parametrize("name", FAIL)
def test_bad_slide_fails_with_its_path_and_the_reason(archive: Any, name: str) -> None:
    result, output = archive
    reason = result.slides()[name]["reason"]
    assert re.search(FAIL[name], reason), reason
    assert f"{name}." in reason.split(": ")[0]
    assert "\n" not in reason
    assert not [file for file in RESULTS if (output / name / file).exists()]
    assert not (output / name / "error.txt").exists(), "it was not foreseen"


@pytest.mark.parametrize("name", DONE)
def test_odd_slide_is_done(archive: Any, name: str) -> None:
    _, output = archive
    facts = json.loads((output / name / "slide.json").read_text())
    assert facts["state"] == DONE[name]
    assert all((output / name / file).exists() for file in RESULTS)
    said = {"sixteen": "16-bit pixels are reduced", "grey": "the image is grey", "blank": "no tissue found"}
    assert said.get(name, "") in " ".join(facts["warnings"])


def test_slides_of_one_name_get_folders_of_their_own(archive: Any) -> None:
    result, output = archive
    twins = sorted(name for name in result.slides() if name.startswith("twin"))
    assert len(twins) == 2
    assert all((output / name / "annotations.geojson").exists() for name in twins)
    said = [event["message"] for event in result.events if event["event"] == "message"]
    assert sum("another slide is called twin too" in line for line in said) == 2


BOX = {
    "type": "Feature",
    "id": "7c3c9f0e-6c1e-4c2e-9a63-0d6f4a0b7f11",
    "geometry": {"type": "Polygon", "coordinates": [[[100, 100], [160, 100], [160, 160], [100, 160], [100, 100]]]},
    "properties": {"objectType": "annotation", "classification": {"name": "Gland", "color": [9, 99, 199]}},
}


def collection(*features: Any) -> str:
    return json.dumps({"type": "FeatureCollection", "features": list(features)})


def box_with(**members: Any) -> str:
    return collection(BOX, BOX | members)


def shape(kind: str, coordinates: Any) -> dict[str, Any]:
    return {"geometry": {"type": kind, "coordinates": coordinates}}


def property_(**members: Any) -> dict[str, Any]:
    return {"properties": BOX["properties"] | members}


RING = BOX["geometry"]["coordinates"][0]
GEOJSON: dict[str, tuple[str | bytes, str]] = {
    "empty-file": ("", "empty"),
    "not-json": ("x,y\n1,2\n", "JSON"),
    "cut-json": (collection(BOX)[:-40], "JSON"),
    "not-utf8": (b'{"type": "FeatureCollection", "features": ["\xff\xfe"]}', "UTF-8|JSON|features"),
    "number": ("42", "."),
    "features-no-array": ('{"type": "FeatureCollection", "features": {}}', "features"),
    "geometry-unknown": (box_with(**shape("Circle", [])), r"features\[1\].*unknown type 'Circle'"),
    "ring-open": (box_with(**shape("Polygon", [RING[:-1]])), r"features\[1\].*a ring is not closed"),
    "ring-short": (box_with(**shape("Polygon", [RING[:2]])), r"features\[1\].*a ring has 2 positions"),
    "coordinate-text": (box_with(**shape("Point", ["a", 1])), r"features\[1\].*Point coordinates"),
    "coordinate-nan": (box_with(**shape("Point", [float("nan"), 1])), r"features\[1\].*Point coordinates"),
    "line-short": (box_with(**shape("LineString", [[1, 1]])), r"features\[1\].*LineString has one position"),
    "no-prompts": (collection(), "holds no prompts"),
    "outside": (collection(BOX | shape("Point", [99999, 99999])), "outside the slide outside .600 x 500 px"),
    "cut-gzip": (gzip.compress(collection(BOX).encode())[:-20], "."),
}
"""Prompt files that cannot be used, and why."""
REFUSED_BY_QUPATH: dict[str, tuple[str | bytes, str]] = {
    "geometry-missing": (collection(BOX, {"type": "Feature", "properties": {}}), r"features\[1\].*geometry is missing"),
    "geometry-null": (box_with(geometry=None), r"features\[1\].*geometry is null"),
    "id-null": (box_with(id=None), r"features\[1\].*id is null"),
    "properties-null": (box_with(properties=None), r"features\[1\].*properties is null"),
    "class-number": (box_with(**property_(classification=5)), r"features\[1\].*classification is a number"),
    "class-colourless": (box_with(**property_(classification={"name": "A"})), r'features\[1\].*no "color"'),
    "measurement-text": (box_with(**property_(measurements={"p": "high"})), r"features\[1\].*measurement 'p'"),
}
"""Prompt files that lose nothing a run needs, but that QuPath does not import."""


@pytest.fixture(scope="module")
def prompted(tools: Any, cluster: str, good: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """One run over slides that differ by name only, each with a prompt file of its own."""
    folder = tmp_path_factory.mktemp("prompted")
    (folder / "prompts").mkdir()
    for name, (content, _) in (
        GEOJSON | REFUSED_BY_QUPATH | {"usable": (collection(BOX), ""), "without": ("", "")}
    ).items():
        os.link(good, folder / f"{name}.tif")
        suffix = ".geojson.gz" if "gzip" in name else ".geojson"
        if name != "without":
            raw = content if isinstance(content, bytes) else content.encode()
            (folder / "prompts" / f"{name}{suffix}").write_bytes(raw)
    words = ["-w", "refine-annotations", *tools.arguments(tools.refined), "--prompts", folder / "prompts"]
    slides = sorted(folder.glob("*.tif"))
    return tools.call_here("run", *slides, *words, "-o", folder / "out", "--cluster", cluster), folder / "out"


@pytest.mark.parametrize("kind", GEOJSON)
def test_prompts_that_cannot_be_used_fail_their_slide_alone(prompted: Any, kind: str) -> None:
    result, output = prompted
    event = result.slides()[kind]
    assert event["state"] == "failed"
    assert f"{kind}.geojson" in event["reason"]
    assert re.search(GEOJSON[kind][1], event["reason"]), event["reason"]
    assert not [file for file in RESULTS if (output / kind / file).exists()]
    assert not (output / kind / "error.txt").exists(), "it was not foreseen"


@pytest.mark.parametrize("kind", REFUSED_BY_QUPATH)
def test_prompts_only_qupath_refuses_are_used_and_validate_names_the_feature(
    tools: Any, prompted: Any, kind: str
) -> None:
    result, output = prompted
    assert result.slides()[kind]["state"] == "done"
    assert result.slides()[kind]["objects"] == (1 if kind.startswith("geometry") else 2)
    prompts = output.parent / "prompts" / f"{kind}.geojson"
    for path, code, message in (
        (prompts, 2, f"^refused  {re.escape(str(prompts))}.*{REFUSED_BY_QUPATH[kind][1]}"),
        (output / kind / "annotations.geojson", 0, "^ok "),
    ):
        checked = tools.call_here("validate", path)
        assert checked.code == code
        assert re.search(message, one_line(checked.out)), checked.out


def test_slide_without_a_prompt_file_fails_and_the_usable_one_is_done(prompted: Any) -> None:
    result, output = prompted
    assert result.code == 3
    assert "without.geojson: no such file" in result.slides()["without"]["reason"]
    feature = json.loads((output / "usable" / "annotations.geojson").read_text())["features"][0]
    assert feature["id"] == BOX["id"]
    assert feature["properties"]["classification"]["name"] == "Gland"


WORKFLOW = """
name: mine
mpp: 1 um/px
tissue: {method: none}
"""
CONFIGURATION = {
    "invalid YAML": ("name: [a\nmpp: 1", [], r"w\.yaml: invalid YAML in line 2"),
    "no mapping": ("- a\n", [], r"w\.yaml: holds no workflow"),
    "not text": (b"\xff\xfe\x00", [], r"w\.yaml: (cannot be read|invalid YAML)"),
    "unknown key": (WORKFLOW + "tiles: 3\n", [], r"unknown key tiles"),
    "unknown nested key": (WORKFLOW + "stitch: {shards: 3}\n", [], r"unknown key stitch\.shards"),
    "wrong unit": (WORKFLOW + "tiling: {overlap: 3 kg}\n", [], r"tiling\.overlap: '3 kg' needs the unit px, um or mm"),
    "area for length": (WORKFLOW + "vectorize: {simplify: 3 um2}\n", [], r"vectorize\.simplify: '3 um2' needs"),
    "no unit": (WORKFLOW + "tiling: {overlap: 3}\n", [], r"tiling\.overlap: 3 needs the unit"),
    "wrong type": (WORKFLOW + "tiling: {batch: many}\n", [], r"tiling\.batch:"),
    "shard no multiple": (WORKFLOW + "stitch: {chunk: 512, shard: 700}\n", [], "shard must be a multiple"),
    "model without prompts": (WORKFLOW + "segment: {model: sam}\n", [], "has a segment section but no prompts"),
    "setting without value": (WORKFLOW, ["--set", "tiling.batch"], r"--set tiling\.batch: is not KEY=VALUE"),
    "setting no YAML": (WORKFLOW, ["--set", "tiling.batch=[1"], r"--set tiling\.batch=\[1: is not YAML"),
    "setting unknown": (WORKFLOW, ["--set", "a.b=1"], "unknown key a"),
    "setting into a value": (WORKFLOW, ["--set", "mpp.b=1"], "mpp is not a section"),
    "roi": (WORKFLOW, ["--roi", "1,2,3"], "--roi 1,2,3: is not x,y,width,height"),
    "roi not finite": (WORKFLOW, ["--roi", "0,0,nan,inf"], "is not x,y,width,height"),
    "prompts not wanted": (WORKFLOW, ["--prompts", "x.geojson"], "the workflow mine takes no prompt file"),
    "scheduler": (WORKFLOW, ["--cluster", "nonsense:"], "nonsense:: no Dask scheduler answers"),
}


@pytest.mark.parametrize("kind", CONFIGURATION)
def test_wrong_configuration_ends_with_2_and_one_line(tools: Any, good: Path, tmp_path: Path, kind: str) -> None:
    content, words, message = CONFIGURATION[kind]
    (tmp_path / "w.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    result = tools.call_here("run", good, "-w", tmp_path / "w.yaml", "-o", tmp_path / "out", *words)
    assert result.code == 2
    line = one_line(result.err)
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert not (tmp_path / "out" / "good").exists()


def test_unknown_workflow_names_those_there_are(tools: Any, good: Path, tmp_path: Path) -> None:
    result = tools.call_here("run", good, "-w", "nuclie", "-o", tmp_path / "out")
    assert result.code == 2
    assert "no such workflow" in one_line(result.err)
    assert "nuclei" in result.err


def test_nothing_to_do_is_said(tools: Any, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    for slides, message in ((tmp_path / "slides", "holds no slide"), (tmp_path / "*.svs", "matches no slide")):
        result = tools.call_here("run", slides, "-w", "tissue", "-o", tmp_path / "out")
        assert result.code == 2
        assert message in one_line(result.err)
    assert not (tmp_path / "out").exists()


def test_prompt_files_are_asked_for(tools: Any, plugin: None, good: Path, tmp_path: Path) -> None:
    base = ["run", good, "-w", "refine-annotations", "-o", tmp_path / "out", *tools.arguments(tools.refined)]
    (tmp_path / "p.geojson").write_text(collection(BOX))
    shutil.copy(good, tmp_path / "other.tif")
    for more, message in (
        ([], "needs prompts. Give --prompts"),
        (["--prompts", tmp_path / "none.geojson"], "none.geojson: no such file"),
        ([tmp_path / "other.tif", "--prompts", tmp_path / "p.geojson"], "one prompt file cannot serve several slides"),
    ):
        result = tools.call_here(*base, *more)
        assert result.code == 2
        assert message in one_line(result.err)


def test_absurd_resolution_on_the_command_line(tools: Any, cluster: str, good: Path, tmp_path: Path) -> None:
    result = tools.call_here("run", good, "-w", "tissue", "-o", tmp_path / "out", "--mpp", 500, "--cluster", cluster)
    assert result.code == 3
    assert "--mpp 500 is out of 0.05 … 20 µm/px" in result.slides()["good"]["reason"]


def save_torch(path: Path, content: Any) -> Path:
    import torch

    torch.save(content, path)
    return path


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


@pytest.fixture(scope="module")
def lite_medsam() -> dict[str, Any]:
    from wsi_pipeline.models.checkpoints import read_state_dict
    from wsi_pipeline.models.weights import locate

    return read_state_dict(locate("lite-medsam"))


def test_wrong_checkpoints_are_refused_before_anything_runs(
    tools: Any, lite_medsam: dict[str, Any], cluster: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lacking = {key: value for key, value in lite_medsam.items() if "iou_prediction_head" not in key}
    buffer = io.BytesIO()
    pickle.dump({"model": Harmful()}, buffer)
    whole = save_torch(tmp_path / "whole.pth", lite_medsam)
    (tmp_path / "bare.pth").write_bytes(buffer.getvalue())
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:100_000])
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html></html>")
    cases = {
        save_torch(tmp_path / "lacking.pth", lacking): r"missing \(",
        save_torch(tmp_path / "code.pth", {"model": Harmful()}): "holds pickled code",
        tmp_path / "bare.pth": "bare Python pickle|pickled code",
        tmp_path / "cut.pth": "cut short or damaged",
        tmp_path / "page.pth": "is a web page",
        tmp_path / "none.pth": "no such weight file",
        save_torch(tmp_path / "foreign.pth", {"conv.weight": lite_medsam["prompt_encoder.no_mask_embed.weight"]}): (
            "another kind of network"
        ),
    }
    base = ["run", good, "-w", "nuclei", "-o", tmp_path / "out", "--cluster", cluster, "--set", "segment.device=cpu"]
    settings = {path: {"segment.weights": path, "segment.model": "sam"} for path in cases}
    wrong_variant = {"segment.weights": whole, "segment.model": "sam", "segment.backbone": "mobile-sam"}
    for path, message in cases.items():
        check_refused(tools.call_here(*base, *tools.arguments(settings[path])), path.name, message)
    check_refused(tools.call_here(*base, *tools.arguments(wrong_variant)), "whole.pth", "LiteMedSAM")
    assert not (tmp_path / "harmed").exists()
    assert not (tmp_path / "out" / "good").exists()


def check_refused(result: Any, name: str, message: str) -> None:
    assert result.code == 2, result
    lines = [line for line in result.err.splitlines() if not line.startswith("{")]
    line = one_line("\n".join(lines))
    assert line.startswith("error: ")
    assert name in line
    assert re.search(message, line), line


def test_checksum_mismatch_is_refused(tools: Any, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsi_pipeline.models.weights import catalogue

    monkeypatch.setenv("WSI_PIPELINE_WEIGHTS", str(tmp_path))
    entry = next(entry for entry in catalogue().values() if entry.where == "download" and entry.sha256)
    (tmp_path / entry.file).write_bytes(b"something else")
    words = tools.arguments({"segment.model": "sam", "segment.weights": entry.name})
    result = tools.call_here("run", good, "-w", "nuclei", "-o", tmp_path / "out", *words)
    check_refused(result, entry.file, "SHA-256 .*expected")


def test_folder_of_another_workflow_is_not_touched(tools: Any, cluster: str, good: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert tools.call_here("run", good, "-w", "tissue", "-o", output, "--cluster", cluster).code == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    words = ["run", good, "-w", tmp_path / "w.yaml", "-o", output, "--cluster", cluster]
    result = tools.call_here(*words)
    assert result.code == 2
    assert "holds results of the workflow tissue, not mine" in one_line(result.err)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    assert tools.call_here(*words, "--overwrite").code == 0


def test_folder_that_cannot_be_written(tools: Any, good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for output in (tmp_path / "file", tmp_path / "file" / "out", Path("/proc/out")):
        result = tools.call_here("run", good, "-w", "tissue", "-o", output)
        assert result.code == 2
        assert f"{output}: cannot be written (" in one_line(result.err)
    (tmp_path / "out" / "ledger.jsonl").mkdir(parents=True)
    result = tools.call_here("run", good, "-w", "tissue", "-o", tmp_path / "out")
    assert result.code == 2
    assert "ledger.jsonl: cannot be read (Is a directory)" in one_line(result.err)


def test_second_run_in_the_same_folder_is_refused(tools: Any, good: Path, tmp_path: Path) -> None:
    from wsi_pipeline.run.lease import Lease

    with Lease(tmp_path / ".lease"):
        result = tools.call_here("run", good, "-w", "tissue", "-o", tmp_path)
    assert result.code == 2
    assert "another run is using this folder" in one_line(result.err)


@pytest.mark.parametrize(("limit", "code"), [(12_000, 3), (600, 2)])
def test_files_that_cannot_grow_end_the_slide_or_the_run(
    tools: Any, tmp_path: Path, good: Path, limit: int, code: int
) -> None:
    """The system refuses to let any file grow: what fails is named, and nothing looks finished."""
    words = ["run", good, "-w", "nuclei", "-o", tmp_path / "out", "--workers", 1, *tools.arguments(tools.threshold)]
    done = subprocess.run(
        [*tools.command, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tools.plugin)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "cannot be written" in last or "cannot be used" in last
    assert not (tmp_path / "out" / "good" / "slide.json").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting takes rights that are missing here; the test before this one does without")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_fails_slides_and_a_larger_disk_finishes_them(
    tools: Any, cluster: str, good: Path, small_disk: Path
) -> None:
    words = ["run", good, "-w", "nuclei", "-o", small_disk / "out", "--cluster", cluster, "--patience", 0]
    full = tools.call_here(*words, *tools.arguments(tools.threshold))
    assert full.code in (2, 3), full.err
    assert "No space left" in full.err or "disk is full" in full.err
    assert not (small_disk / "out" / "good" / "slide.json").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = tools.call_here(*words, *tools.arguments(tools.threshold))
    assert again.code == 0, again.err
    assert (small_disk / "out" / "good" / "annotations.geojson").exists()
