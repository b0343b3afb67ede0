"""``wsi-pipeline evaluate`` from words to files, and the page in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    """Four tiles of three groups; one run finds all, one misses an object in the last tile and is off by a px."""
    folder = tmp_path_factory.mktemp("tiles")
    labels = files.labels()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "mask", "group", "object_class", "mpp"])
        for number in range(4):
            name = f"tile <{number}>.png"
            (folder / "images").mkdir(exist_ok=True)
            Image.new("RGB", (64, 48), (230, 180, 200)).save(folder / "images" / name)
            files.image(folder / "masks" / name, labels)
            files.image(folder / "good" / name, labels)
            files.image(folder / "bad" / name, np.roll(np.where(labels == (3 if number == 3 else 9), 0, labels), 1, 1))
            writer.writerow([f"images/{name}", f"masks/{name}", f"g{number // 2 * number}", "gland", 0.5])
    return folder


@pytest.fixture(scope="module")
def output(tools, folder):
    runs = ("--run", f"good={folder / 'good'}", "--run", f"bad={folder / 'bad'}")
    result = tools.call_here("evaluate", "--truth", folder / "manifest.csv", *runs, "-o", folder / "out")
    assert result.code == 0, result.err
    assert re.match(r"good: Dice 1\.000 \(1\.000 to 1\.000\), .* HD95 0\.000", result.out)
    assert result.out.splitlines()[-1] == str(folder / "out" / "report.html")
    return folder / "out"


def test_the_summary_has_runs_classes_sizes_and_differences(output):
    summary = json.loads((output / "evaluation.json").read_text())
    assert (summary["images"], summary["groups"], summary["size_unit"]) == (4, 3, "µm²")
    good, bad = summary["runs"]["good"], summary["runs"]["bad"]
    assert good["pooled"]["pq"] == [1, 1, 1]
    assert bad["objects"] == {"truth": 12, "predicted": 11, "matched": 11}
    assert bad["classes"]["gland"]["pooled"] == bad["pooled"]
    assert bad["mean"]["hd95_um"][0] == pytest.approx(bad["mean"]["hd95_px"][0] / 2)
    assert len(bad["sizes"]) == 3
    value, low, high = summary["differences"]["bad - good"]["pooled"]["pq"]
    assert low <= value <= high < 0


def test_the_table_has_one_row_for_each_image_of_each_run(output):
    rows = list(csv.DictReader((output / "images.csv").open()))
    assert [(row["run"], row["image"]) for row in rows] == [
        (run, f"tile <{number}>") for run in ("good", "bad") for number in range(4)
    ]
    assert float(rows[-1]["recall"]) == pytest.approx(2 / 3, abs=1e-5)


def test_the_same_words_give_the_same_bytes(tools, folder, output):
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    runs = ("--run", f"good={folder / 'good'}", "--run", f"bad={folder / 'bad'}")
    assert tools.call_here("evaluate", "-t", folder / "manifest.csv", *runs, "-o", output).code == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_names_of_files_are_never_markup(output):
    page = (output / "report.html").read_text()
    assert "tile <3>" not in page
    assert page.index("tile &lt;3&gt;, bad") < page.index("tile &lt;0&gt;, bad")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_runs_and_the_outlines(output, tmp_path):
    script = """<script>onload = () => {
        const canvas = document.createElement("canvas"), pen = canvas.getContext("2d")
        const image = [...document.images].at(-1)
        canvas.width = canvas.height = 200; pen.drawImage(image, 0, 0)
        const colors = new Set(), data = pen.getImageData(0, 0, 128, 96).data
        for (let i = 0; i < data.length; i += 4) colors.add([...data.slice(i, i + 3)].join(" "))
        document.title = [document.images.length, image.naturalWidth, [...colors].sort().join("/")].join()
    }</script>"""
    page = tmp_path / "report.html"
    page.write_text((output / "report.html").read_text().replace("</body>", f"{script}</body>"))
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>8,128,0 200 83/230 180 200/255 0 160/255 255 255</title>" in shown
    assert shown.count("<b>bad - good</b>") == 2


def test_one_image_has_values_without_intervals(tools, files, tmp_path):
    truth = files.geojson(tmp_path / "a.geojson")
    words = ("--truth", truth, "-p", truth, "--width", 64, "--height", 48, "--mpp", 0.25)
    result = tools.call_here("evaluate", *words, "--sizes", "10,20", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert result.out.startswith("a: Dice 1.000, boundary IoU 1.000")
    summary = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [(b["from"], b["to"]) for b in summary["runs"]["a"]["sizes"]] == [(0, 10), (10, 20), (20, None)]
    assert summary["runs"]["a"]["pooled"]["pq"] == [1, None, None]
    assert "One group has no interval" in (tmp_path / "out" / "report.html").read_text()


ERRORS = {
    "same name": (["-p", "x/p.png", "-p", "y/p.png"], "two runs are called p. Write NAME=PATH"),
    "no name": (["-p", "=p.png"], "'=p.png' is not NAME=VALUE"),
    "width alone": (["-p", "p.png", "--width", "5"], "--width and --height: come together"),
    "sizes": (["-p", "p.png", "--sizes", "3,2"], "'3,2' is no rising list of areas"),
    "where": (["-p", "p.png", "--where", "val"], "'val' is not NAME=VALUE. Write --where name=value"),
    "no manifest": (["-p", "p.png", "--where", "split=val"], "is no manifest. Use --where with one"),
    "missing": (["-p", "p.png"], "p.png: does not exist"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_one_line(tools, files, tmp_path, case):
    words, message = ERRORS[case]
    truth = files.image(tmp_path / "t.png", files.labels())
    result = tools.call_here("evaluate", "--truth", truth, *words, "-o", tmp_path / "out")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ((9, 9), "is 9 x 9 px, its truth is 64 x 48")]
)
def test_an_image_that_cannot_be_drawn_is_named(tools, files, tmp_path, content, message):
    truth, image = files.image(tmp_path / "t.png", files.labels()), tmp_path / "i.png"
    Image.new("RGB", content).save(image) if content else image.write_text("no image")
    result = tools.call_here("evaluate", "-t", truth, "-p", truth, "--image", image, "-o", tmp_path / "out")
    assert result.code == 2
    assert result.err.startswith(f"error: {image}: {message}")


def test_an_output_that_is_a_file_is_refused(tools, files, tmp_path):
    truth = files.image(tmp_path / "t.png", files.labels())
    result = tools.call_here("evaluate", "-t", truth, "-p", truth, "-o", truth)
    assert result.code == 2
    assert f"{truth}: cannot be made" in result.err
