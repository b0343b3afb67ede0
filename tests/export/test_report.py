"""The page people look at first, in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from wsi_pipeline.export.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Row:
    id: str
    path: str
    state: str
    reason: str | None = None


@pytest.fixture
def output(tmp_path: Path) -> Path:
    run = {
        "workflow": {"name": "nuclei", "description": "Nuclei", "mpp": 0.5},
        "model": {"dtype": "fp32"},
        "weights": [{"role": "backbone", "file": "lite.pth", "sha256": "ab" * 32}],
        "host": {"wsi_pipeline": "1.2.3"},
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    done = tmp_path / "a slide"
    done.mkdir()
    facts = {"objects": 12345, "mpp": [0.5, 0.5], "mpp_source": "property", "warnings": ["look <here>"], "seconds": {}}
    (done / "slide.json").write_text(json.dumps(facts))
    Image.new("RGB", (40, 30), (200, 30, 30)).save(done / "overview.png")
    rows = [Row("a slide", "in/a slide.svs", "done"), Row("bad", "in/bad.svs", "failed", "in/bad.svs: <b>is empty</b>")]
    write_report(tmp_path, rows)
    return tmp_path


class _Rows(HTMLParser):
    """Text of every table row, and the tags inside."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1] += data


def read(page: str) -> _Rows:
    parser = _Rows()
    parser.feed(page)
    return parser


def test_failed_slides_come_first_with_their_reason(output: Path) -> None:
    rows = read((output / "report.html").read_text()).rows[1:]
    assert rows[0].split()[0].startswith("bad")
    assert "<b>is empty</b>" in rows[0]
    assert "12,345" in rows[1]


def test_text_from_slides_is_never_markup(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert "<b>is empty" not in page
    assert "look &lt;here&gt;" in page


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_every_slide_and_its_picture(output: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    script = "<script>onload=()=>document.title=[...document.images].map(i=>i.naturalWidth).join()</script>"
    page = output / "report.html"
    page.write_text(page.read_text().replace(' loading="lazy"', "").replace("</body>", f"{script}</body>"))
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>40</title>" in shown
    assert len(read(shown).rows) == 3
