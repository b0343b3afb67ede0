"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages import table


def render(curve: Mapping[str, Any]) -> str:
    """Markdown of what ``run`` gave."""
    lines = [
        "# How many tiles it takes",
        "",
        "`python -m benchmarks.learning_curve` writes this page; no number is typed by hand.",
        "",
        f"Decoders of {curve['steps']} steps of {curve['batch']} patches, on {curve['variants']} variants of each tile,"
        " measured by their own objects on the validation tiles, with the default thresholds: the mean of three seeds,"
        " each with other tiles, and the least to the most of them. These runs are far shorter than the recipe's, whose"
        " result is *domain decoder* in [Finding nuclei](finding-nuclei.md).",
        "",
        "![Dice and PQ by number of tiles](../images/learning-curve.png)",
        "",
        _seeds("training tiles", curve["scores"]),
        "",
        "## Whether SAM may annotate",
        "",
        f"{curve['redrawn']} tiles, with the annotations that they have; with LiteMedSAM's mask for the box of every"
        " annotated nucleus; and with its masks for the boxes of the classical detector, which nobody looked at."
        " Points are left out: LiteMedSAM was trained on boxes alone.",
        "",
        _seeds("annotations", curve["annotators"]),
    ]
    return "\n".join(lines) + "\n"


def _seeds(heading: str, scores: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    cells = {
        name: [_spread([row[metric] for row in rows]) for metric in ("dice", "pq")] for name, rows in scores.items()
    }
    return table([heading, "Dice", "PQ"], ([name, *spreads] for name, spreads in cells.items()))


def _spread(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"
