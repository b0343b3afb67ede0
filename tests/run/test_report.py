"""The page people look at first, in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wsi_pipeline.run.counts import Counts, Work
from wsi_pipeline.run.ledger import SlideRow
from wsi_pipeline.run.report import time_shares, write_report

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

in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

RUN = {
    "workflow": {"name": "nuclei", "description": "Nuclei", "mpp": 0.5},
    "model": {"dtype": "fp32"},
    "weights": [{"role": "backbone", "file": "lite.pth", "sha256": "ab" * 32}],
    "host": {"wsi_pipeline": "1.2.3"},
}

FACTS = {
    "mpp": [0.5, 0.5],
    "mpp_source": "property",
    "warnings": ["look <here>"],
    "seconds": {"tissue": 10.0, "segment": 80.0, "stitch": 10.0},
    "tasks": {"segment": {"seconds": {"read": 10.0, "model": 140.0, "other": 10.0}}},
}

ROWS = [
    SlideRow("a slide", "in/a slide.svs", state="done", objects=12345, tiles=500, seconds=100.0),
    SlideRow("quick", "in/quick.svs", state="done", objects=9, tiles=10, seconds=1.0),
    SlideRow("none", "in/none.svs", state="empty", objects=0, tiles=2, seconds=4000.0),
    SlideRow("bad", "in/bad.svs", state="failed", reason="in/bad.svs: <b>is empty</b>"),
]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    done = tmp_path / "a slide"
    done.mkdir()
    (done / "slide.json").write_text(json.dumps(FACTS))
    Image.new("RGB", (40, 30), (200, 30, 30)).save(done / "overview.png")
    work = {"shards": 1, "run": asdict(Counts(total=4, work=Work(1800, 3, 900))), "before": asdict(Work(5400, 0, 0))}
    (tmp_path / ".progress.json").write_text(json.dumps(work))
    write_report(tmp_path, iter(ROWS))
    return tmp_path


class _Rows(HTMLParser):
    """Text of every table row, and of every number above the table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = []
        self.totals: list[str] = []
        self._at = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._at = tag
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        if self._at in ("dt", "dd") and data.strip():
            self.totals.append(data.strip())
        if self.rows and self._at != "script":
            self.rows[-1] += f"{data} "


def read(page: str) -> _Rows:
    parser = _Rows()
    parser.feed(page)
    return parser


def test_failed_slides_come_first_with_their_reason(output: Path) -> None:
    rows = read((output / "report.html").read_text()).rows[1:]
    assert [row.split()[0] for row in rows] == ["bad", "none", "a", "quick"]
    assert "<b>is empty</b>" in rows[0]
    assert "12,345" in rows[2]


def test_text_from_slides_is_never_markup(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert "<b>is empty" not in page
    assert "look &lt;here&gt;" in page


def test_sums_and_pace_stand_above(output: Path) -> None:
    words = read((output / "report.html").read_text()).totals
    totals = dict(zip(words[::2], words[1::2], strict=True))
    assert totals == {
        "slides": "4",
        "failed": "1",
        "empty": "1",
        "done": "2",
        "objects": "12,354",
        "tiles": "512",
        "time of runs": "2 h 00 min",
        "slides/h": "6",
        "tiles/s": "0.5",
    }


def test_every_slide_says_what_bound_it(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert "model 70 %" in page
    assert 'title="reader 15 %, model 70 %, writer 15 %"' in page


@pytest.mark.parametrize(
    ("facts", "shares"),
    [
        (FACTS, {"reader": 0.15, "model": 0.7, "writer": 0.15}),
        ({"seconds": {"segment": 5, "export": 15}, "tasks": {"segment": {"seconds": {"model": 3}}}}, (0, 0.25, 0.75)),
        ({"seconds": {"tissue": 5}, "tasks": {}}, {}),
        ({}, {}),
    ],
)
def test_shares_of_time_are_of_the_whole_slide(facts: dict[str, Any], shares: Any) -> None:
    found = time_shares(facts)
    wanted = shares if isinstance(shares, dict) else dict(zip(("reader", "model", "writer"), shares, strict=True))
    assert found == pytest.approx(wanted)


def test_slides_are_asked_for_one_after_the_other_and_read_when_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of an archive must not need the memory of an archive."""
    from wsi_pipeline.run import provenance

    read_json, writing, alive = provenance.read_json, [0], [0]

    class Facts(dict):
        def __init__(self, facts: dict[str, Any]) -> None:
            super().__init__(facts)
            writing[0] += 1
            alive[0] = max(alive[0], writing[0])

        def __del__(self) -> None:
            writing[0] -= 1

    monkeypatch.setattr(provenance, "read_json", lambda path: Facts(read_json(path) or {}))
    rows = [SlideRow(f"s{number}", "in/s.svs", state="done", objects=1) for number in range(500)]
    write_report(tmp_path, iter(rows))
    assert (tmp_path / "report.html").read_text().count("<tr data-state") == 500
    assert alive[0] < 20


def test_a_page_that_fails_halfway_leaves_the_old_one(output: Path) -> None:
    before = (output / "report.html").read_bytes()

    def rows() -> Iterator[SlideRow]:
        yield ROWS[0]
        raise ValueError

    with pytest.raises(ValueError):
        write_report(output, rows())
    assert (output / "report.html").read_bytes() == before


def look(output: Path, profile: Path, script: str) -> str:
    """The title a script gives to the page once it has loaded."""
    assert BROWSER is not None
    page = output / "shown.html"
    text = (output / "report.html").read_text().replace(' loading="lazy"', "")
    page.write_text(text.replace("</body>", f"<script>onload = () => {{ {script} }}</script></body>"))
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return shown.partition("<title>")[2].partition("</title>")[0]


@pytest.mark.slow
@in_a_browser
def test_a_browser_shows_every_slide_and_its_picture(output: Path, tmp_path: Path) -> None:
    script = "document.title = [...document.images].map(i => i.naturalWidth).join() + ' ' + rows.length"
    assert look(output, tmp_path / "profile", script) == "40 4"


@pytest.mark.slow
@in_a_browser
def test_a_browser_sorts_by_any_column_and_shows_what_is_asked_for(output: Path, tmp_path: Path) -> None:
    script = """
    const names = () => [...body.rows].filter(row => !row.hidden).map(row => row.querySelector("b").textContent).join();
    const click = name => [...document.querySelectorAll("th button")].find(b => b.textContent === name).click();
    const said = [];
    for (const name of ["objects", "objects", "time", "tiles/s", "state", "slide"]) { click(name); said.push(names()); }
    search.value = "IS EMPTY"; form.oninput(); said.push(names());
    search.value = "svs quick"; form.oninput(); said.push(names());
    search.value = ""; boxes.find(box => box.value === "done").click(); said.push(names());
    document.title = said.join(" | ");
    """
    assert look(output, tmp_path / "profile", script).split(" | ") == [
        "none,quick,a slide,bad",
        "a slide,quick,none,bad",
        "quick,a slide,none,bad",
        "none,a slide,quick,bad",
        "bad,none,a slide,quick",
        "a slide,bad,none,quick",
        "bad",
        "quick",
        "bad,none",
    ]


@pytest.mark.slow
@in_a_browser
def test_a_browser_shows_the_first_of_many_slides_and_finds_the_last(tmp_path: Path) -> None:
    write_report(
        tmp_path, (SlideRow(f"s{number:04}", "in/s.svs", state="done", objects=number) for number in range(900))
    )
    script = """
    const said = [body.rows.length < 900, more.hidden];
    search.value = "s0899"; form.oninput(); said.push(body.rows.length, more.hidden);
    search.value = ""; form.oninput();
    const objects = document.querySelector("th.n"); sort(objects); sort(objects);
    said.push(body.rows[0].querySelector("b").textContent);
    document.title = said.join();
    """
    assert look(tmp_path, tmp_path / "profile", script) == "true,false,1,true,s0899"
