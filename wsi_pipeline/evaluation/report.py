"""What a comparison leaves: ``evaluation.json``, ``images.csv`` and ``report.html``."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import OutputError
from wsi_pipeline.evaluation.drawing import BOTH_COLOR, PREDICTION_COLOR, TRUTH_COLOR, draw, worst
from wsi_pipeline.evaluation.study import ImageResult, Options
from wsi_pipeline.evaluation.summary import Results
from wsi_pipeline.files import beside

WORST = 4
"""Pictures for each run."""

_METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "boundary_iou": "Boundary IoU",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1 = DQ",
    "sq": "SQ",
    "pq": "PQ",
    "aji": "AJI",
    "aji_plus": "AJI+",
    "hd95_px": "HD95, px",
    "hd95_um": "HD95, µm",
}

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>wsi-pipeline: evaluation</title>
<style>
 body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1c1c1c }
 table { border-collapse: collapse; margin-bottom: 2rem } th, td { text-align: left; padding: .35rem .7rem }
 tr { border-top: 1px solid #ddd } td.n { text-align: right; font-variant-numeric: tabular-nums }
 small { color: #555 } figure { margin: 0 0 1rem } td small { white-space: nowrap } img { max-width: 100% }
 b.key { padding: 0 .4rem; color: #000 }
</style></head><body>
{% macro cell(e) %}<td class="n">{% if e[0] is not none %}{{ "%.3f"|format(e[0]) }}
{% if e[1] is not none %}<br><small>{{ "%.3f to %.3f"|format(e[1], e[2]) }}</small>{% endif %}
{% else %}–{% endif %}</td>{% endmacro %}
{% macro table(head, names, rows) %}<table><thead><tr><th>{{ head }}</th>
{% for name in names %}<th>{{ metrics[name] }}</th>{% endfor %}</tr></thead><tbody>
{% for label, found in rows %}<tr><td><b>{{ label }}</b></td>
{% for name in names %}{{ cell(found[name]) }}{% endfor %}</tr>{% endfor %}</tbody></table>{% endmacro %}
<h1>Predictions against truth</h1>
<p>{{ s.images }} images in {{ s.groups }} groups{% if s.class %} · class {{ s.class }}{% endif %} ·
{% for name, run in s.runs.items() %}{{ name }}: {{ "{:,}".format(run.objects.predicted) }} objects,
{{ "{:,}".format(run.objects.matched) }} of {{ "{:,}".format(run.objects.truth) }} true ones matched
{{- "; " if not loop.last }}{% endfor %}</p>
<p><small>Below each value its 95 % interval, from {{ s.bootstrap.replicates }} bootstrap draws of groups
(seed {{ s.bootstrap.seed }}).{% if s.groups < 2 %} One group has no interval.{% endif %}</small></p>
<h2>All images together</h2>{{ table("run", pooled, rows("pooled")) }}
<h2>Mean over images</h2>{{ table("run", mean, rows("mean")) }}
{% if s.differences %}<h2>Differences</h2>
<p><small>Paired by draw. An interval without 0 is a difference that other groups would probably show too.</small></p>
{{ table("all images together", pooled, differences("pooled")) }}
{{ table("mean over images", mean, differences("mean")) }}{% endif %}
{% if classes %}<h2>Classes</h2>{{ table("run, class", pooled, classes) }}{% endif %}
<h2>Object sizes</h2>{{ table("run, area in " ~ s.size_unit, detection, sizes) }}
<h2>Worst images</h2>
<p>{% for word, color in key %}<b class="key" style="background: rgb{{ color }}">{{ word }}</b> {% endfor %}</p>
{% for name, cases in pictures %}<h3>{{ name }}</h3>{% for case in cases %}
<figure><img src="{{ case.url }}" alt="outlines of {{ case.name }}, {{ name }}">
<figcaption>{{ case.name }} <small>PQ {{ "%.3f"|format(case.pq) }}, Dice {{ "%.3f"|format(case.dice) }}</small>
</figcaption></figure>{% endfor %}{% endfor %}
</body></html>
"""


def write_evaluation(output: Path, results: Results, summary: dict[str, Any], options: Options) -> None:
    """Write the three files into a folder, which is made when missing.

    Raises:
        OutputError: the folder or a file cannot be written.
        LabelsError: an image to be shown cannot be read.
    """
    page = _page(results, summary, options)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be made ({error.strerror})", where=output, fix="Choose another --output") from None
    with beside(output / "evaluation.json") as partial:
        partial.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with beside(output / "images.csv") as partial:
        _write_csv(partial, results)
    with beside(output / "report.html") as partial:
        partial.write_text(page, encoding="utf-8")


def _write_csv(path: Path, results: Results) -> None:
    """One row for each image of each run; what cannot be computed stays empty."""
    counts = ("truth_objects", "predicted_objects", "matched_objects")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "image", "group", "mpp", *counts, *_METRICS])
        for run, images in results.items():
            for image in images:
                values = image.values()
                numbers = ("" if math.isnan(values[name]) else round(values[name], 6) for name in _METRICS)
                found = (getattr(image.whole.counts, name) for name in counts)
                writer.writerow([run, image.truth.name, image.truth.group, image.mpp or "", *found, *numbers])


def _page(results: Results, summary: dict[str, Any], options: Options) -> str:
    from jinja2 import Environment

    runs = summary["runs"]
    names = next(iter(runs.values()))
    return (
        Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            s=summary,
            metrics=_METRICS,
            mean=[name for name in _METRICS if any(run["mean"][name][0] is not None for run in runs.values())],
            pooled=[name for name in _METRICS if name in names["pooled"]],
            detection=[name for name in _METRICS if name in names["sizes"][0]["pooled"]],
            rows=lambda way: [(name, run[way]) for name, run in runs.items()],
            differences=lambda way: [(name, found[way]) for name, found in summary["differences"].items()],
            classes=[
                (f"{name}, {c}", found["pooled"]) for name, run in runs.items() for c, found in run["classes"].items()
            ],
            sizes=[
                (f"{name}, {_span(found)}", found["pooled"]) for name, run in runs.items() for found in run["sizes"]
            ],
            key=[("truth", TRUTH_COLOR), ("prediction", PREDICTION_COLOR), ("both", BOTH_COLOR)],
            pictures=[
                (name, [_case(image, options) for image in worst(images, WORST)]) for name, images in results.items()
            ],
        )
    )


def _span(found: dict[str, Any]) -> str:
    return f"{found['from']:.4g} to {found['to']:.4g}" if found["to"] is not None else f"from {found['from']:.4g}"


def _case(image: ImageResult, options: Options) -> dict[str, Any]:
    return {"name": image.truth.name, "url": draw(image, options)} | image.whole.ratios()
