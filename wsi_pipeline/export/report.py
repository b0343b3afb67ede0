"""``report.html``: one row per slide, failures first, with what was found, how long it took and what to know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from wsi_pipeline.files import beside

_ORDER = {"failed": 0, "running": 1, "pending": 2, "empty": 3, "done": 4}

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>wsi-pipeline: {{ workflow.name }}</title>
<style>
 body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1c1c1c }
 table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .5rem .7rem }
 tr { border-top: 1px solid #ddd } img { max-width: 420px; max-height: 300px } td.n { text-align: right }
 .failed { color: #b00020; font-weight: 600 } .done { color: #176b2c } .empty, .pending, .running { color: #6b6b6b }
 small { color: #555 } ul { margin: .2rem 0; padding-left: 1.1rem } code { background: #f3f3f3; padding: 0 .2rem }
</style></head><body>
<h1>{{ workflow.name }}</h1>
<p>{{ workflow.description }}</p>
<p>{% for state, count in counts %}
<span class="{{ state }}">{{ count }} {{ state }}</span>{{ ", " if not loop.last }}{% endfor %}
 · working resolution {{ workflow.mpp }} µm/px
{% for stage, dtype in (model.dtypes or {}).items() %} · {{ stage }} in {{ dtype }}{% endfor %}
 · wsi-pipeline {{ host.wsi_pipeline }}</p>
{% if weights %}<p><small>weights:
{% for w in weights %}{{ w.stage }}, {{ w.role }}: {{ w.file }} <code>{{ w.sha256[:12] }}</code> {% endfor %}
</small></p>{% endif %}
<table><thead>
<tr><th>slide</th><th>state</th><th>objects</th><th>result</th><th>what to know</th></tr>
</thead><tbody>
{% for row in rows %}<tr>
<td><b>{{ row.id }}</b><br><small>{{ row.path }}
{% if row.facts.mpp %}<br>{{ "%.4g × %.4g"|format(*row.facts.mpp) }} µm/px
 ({{ row.facts.mpp_source }}){% endif %}</small></td>
<td class="{{ row.state }}">{{ row.state }}</td>
<td class="n">{{ "{:,}".format(row.facts.objects) if row.facts.objects is defined else "" }}</td>
<td>{% if row.overview %}<a href="{{ row.id|urlencode }}/overview.png">
<img loading="lazy" src="{{ row.id|urlencode }}/overview.png" alt="overview of {{ row.id }}"></a>{% endif %}</td>
<td>{% if row.reason %}<p class="failed">{{ row.reason }}</p>{% endif %}
{% if row.facts.warnings %}<ul>{% for warning in row.facts.warnings %}<li>{{ warning }}</li>{% endfor %}</ul>{% endif %}
{% set refine = ((row.facts.tasks or {}).outline or {}).refine %}
{% if refine %}<p>{{ refine["refined"] }} objects refined, {{ refine["kept coarse"] }} kept as they were,
as the refined mask was another object</p>{% endif %}
{% if row.facts.seconds %}<small>{% for stage, seconds in row.facts.seconds.items() %}
{{ stage }} {{ "%.1f"|format(seconds) }} s{{ ", " if not loop.last }}{% endfor %}</small>{% endif %}</td>
</tr>{% endfor %}
</tbody></table></body></html>
"""


class SlideState(Protocol):
    """What the report needs of a ledger row."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str | None: ...


def write_report(output: Path, slides: Sequence[SlideState]) -> None:
    """Write ``report.html`` from ``run.json``, each slide's ``slide.json`` and the slides' states.

    Raises:
        OutputError: the file cannot be written.
    """
    from jinja2 import Environment

    run = _facts(output / "run.json")
    rows = sorted(slides, key=lambda row: (_ORDER.get(row.state, 9), row.id))
    page = (
        Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            workflow=run.get("workflow", {}),
            model=run.get("model", {}),
            weights=run.get("weights", []),
            host=run.get("host", {}),
            counts=_counts(rows),
            rows=[_row(output, row) for row in rows],
        )
    )
    with beside(output / "report.html") as partial:
        partial.write_text(page, encoding="utf-8")


def _counts(rows: Sequence[SlideState]) -> list[tuple[str, int]]:
    states = [row.state for row in rows]
    return [(state, states.count(state)) for state in _ORDER if state in states]


def _row(output: Path, row: SlideState) -> dict[str, Any]:
    folder = output / row.id
    return {
        "id": row.id,
        "path": row.path,
        "state": row.state,
        "reason": row.reason,
        "facts": _facts(folder / "slide.json") if row.state in ("done", "empty") else {},
        "overview": row.state == "done" and (folder / "overview.png").is_file(),
    }


def _facts(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
