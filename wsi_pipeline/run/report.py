"""``report.html``: one row per slide, failures first, with what was found, how long it took and what to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.files import beside
from wsi_pipeline.run.counts import brief, duration
from wsi_pipeline.run.ledger import SlideRow
from wsi_pipeline.run.provenance import read_json
from wsi_pipeline.run.snapshot import of_the_latest, read_snapshots
from wsi_pipeline.run.status import rate_of

if TYPE_CHECKING:
    from jinja2 import Template

_ORDER = {"failed": 0, "running": 1, "pending": 2, "empty": 3, "done": 4}

_COLUMNS = (
    ("slide", False),
    ("state", False),
    ("objects", True),
    ("tiles", True),
    ("time", True),
    ("tiles/s", True),
    ("bound by", False),
    ("what to know", False),
)
"""Their names, and whether they hold numbers."""


def write_report(output: Path, slides: Iterable[SlideRow]) -> None:
    """Write ``report.html`` from ``run.json``, each slide's ``slide.json`` and the slides' states.

    Raises:
        OutputError: the file cannot be written.
    """
    run = read_json(output / "run.json") or {}
    slides = sorted(slides, key=lambda row: (_ORDER.get(row.state, len(_ORDER)), row.id))
    page = _template().stream(
        workflow=run.get("workflow", {}),
        model=run.get("model", {}),
        weights=run.get("weights", []),
        host=run.get("host", {}),
        totals=_totals(output, slides),
        columns=_COLUMNS,
        rows=_rows(output, slides),
    )
    page.enable_buffering(100)
    with beside(output / "report.html") as partial:
        page.dump(str(partial), encoding="utf-8")


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "" if value is None else value,
    )
    environment.filters |= {"brief": brief, "duration": duration}
    return environment.get_template("report.html.jinja")


def _totals(output: Path, slides: Sequence[SlideRow]) -> dict[str, Any]:
    shots = read_snapshots(output)
    seconds = sum(shot.work.seconds for shot in shots)
    states = Counter[str](row.state for row in slides)
    return {
        "slides": len(slides),
        "states": [(state, states[state]) for state in _ORDER if state in states],
        "objects": sum(row.objects or 0 for row in slides),
        "tiles": sum(row.tiles or 0 for row in slides),
        "time": duration(seconds) if seconds else None,
        "rate": rate_of(of_the_latest(shots)),
    }


def _rows(output: Path, slides: Iterable[SlideRow]) -> Iterator[dict[str, Any]]:
    """What the page says of each slide, read when its turn comes: archives are large."""
    for row in slides:
        folder = output / row.id
        facts = read_json(folder / "slide.json") or {} if row.state in ("done", "empty") else {}
        shares = time_shares(facts)
        bound = max(shares, key=lambda part: shares[part]) if shares else None
        yield {
            "id": row.id,
            "path": row.path,
            "state": row.state,
            "order": _ORDER.get(row.state, len(_ORDER)),
            "reason": row.reason,
            "objects": row.objects,
            "tiles": row.tiles,
            "seconds": row.seconds,
            "rate": row.tiles / row.seconds if row.tiles and row.seconds else None,
            "shares": shares,
            "bound": f"{bound} {100 * shares[bound]:.0f} %" if bound else None,
            "facts": facts,
            "overview": row.state == "done" and (folder / "overview.png").is_file(),
        }


def time_shares(facts: dict[str, Any]) -> dict[str, float]:
    """Shares of a slide's time that went into reading, into the model, and into finding and writing objects.

    The time of the stage that asks the model is divided as its tasks say they spent theirs; finding tissue counts as
    reading, and all other stages as writing.

    Args:
        facts: what ``slide.json`` says.

    Returns:
        Of ``reader``, ``model`` and ``writer``, 0–1, together 1; nothing where no time was measured.
    """
    seconds = facts.get("seconds", {})
    total = sum(seconds.values())
    spent = facts.get("tasks", {}).get("segment", {}).get("seconds", {})
    if not total or not sum(spent.values()):
        return {}
    per_second = seconds.get("segment", 0.0) / sum(spent.values())
    reader = seconds.get("tissue", 0.0) + per_second * spent.get("read", 0.0)
    model = per_second * spent.get("model", 0.0)
    return {"reader": reader / total, "model": model / total, "writer": (total - reader - model) / total}
