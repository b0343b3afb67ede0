"""The page, from the dictionaries that the benchmarks give and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = {
    "pq": "PQ",
    "f1": "F1 = DQ",
    "sq": "SQ",
    "precision": "precision",
    "recall": "recall",
    "aji": "AJI",
    "dice": "Dice",
}


def render(found: Mapping[str, Any], curve: Mapping[str, Any] | None) -> str:
    """Markdown.

    Args:
        found: what ``study.run`` gave.
        curve: what ``benchmarks.learning_curve`` gave, or None to leave it out.
    """
    parts = [_intro(found), *_tables(found), _differences(found["differences"]), _how(found)]
    if found["adapted"]:
        parts.append(_adapted(found["adapted"]))
    return "\n\n".join(parts if curve is None else [*parts, _curve(curve)]) + "\n"


def _intro(found: Mapping[str, Any]) -> str:
    how = found["how"]
    return (
        "# Finding nuclei\n\nHow many nuclei are found without anybody drawing a box, and how well they are outlined:"
        f" on the {how['tiles']} nuclei tiles of the split `val` ({how['objects']} nuclei, {how['groups']} patients or"
        " fields). `python -m benchmarks.finding` writes this page; no number is typed by hand. Below each way the"
        " value over all tiles together, and its 95 % interval over patients or fields."
    )


def _tables(found: Mapping[str, Any]) -> list[str]:
    titles = next(iter(found["scores"].values()))
    return [_table(title, {name: scores[title] for name, scores in found["scores"].items()}) for title in titles]


def _table(title: str, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    lines = [f"## {'All tiles' if title == 'all' else title}", ""]
    lines += ["| way | " + " | ".join(HEADINGS.values()) + " |", "| --- " * (len(HEADINGS) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row[metric]) for metric in HEADINGS) + " |")
    return "\n".join(lines)


def _differences(differences: Mapping[str, Any]) -> str:
    lines = [
        "## PQ against the classical detector",
        "",
        "In points: from the classical detector with the same segmenter, or with ellipses where there is none; from the"
        f" detector with the bare backbone; and from *{differences['base']}*, its best way.",
        "",
        "| way | like with like | from the bare backbone | from its best way |",
        "| --- | --- | --- | --- |",
    ]
    for name in differences["alike"]:
        cells = [_points(differences[what][name]) for what in ("alike", "bare", "best")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _adapted(adapted: Mapping[str, Mapping[str, Any]]) -> str:
    *_, base = adapted
    lines = [
        "## What adapting the encoder brings",
        "",
        "LoRA-SAM, trained alike with adapters of several ranks on the same tiles. Differences in points, over all"
        f" tiles, from *{base}*, whose encoder is as it was.",
        "",
        "| way | adapter | of the encoder | neck and head | Dice | PQ |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in adapted.items():
        minus = [_points(one["minus"][metric]) if name != base else "" for metric in ("dice", "pq")]
        sizes = [f"{one['adapter']:,}", f"{one['share']:.2%}", f"{one['rest']:,}"]
        lines.append(f"| {name} | " + " | ".join([*sizes, *minus]) + " |")
    return "\n".join(lines)


def _points(estimate: Sequence[float]) -> str:
    value, low, high = (100 * number for number in estimate)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _how(found: Mapping[str, Any]) -> str:
    how, chosen = found["how"], found["chosen"]
    split, classical = chosen["decoder"], chosen["classical"]
    told = "; ".join(
        f"{name}: {one['mpp']:g} µm/px and threshold {one['threshold']:g} (F1 of boxes {one['f1']:.2f})"
        for name, one in classical.items()
    )
    lines = [
        "All tiles are looked at in their own px, as nobody knows their resolution.",
        f"The classical detector works in µm, so the training tiles of each data set say what suits it: {told}.",
        f"The decoder's objects are told apart with a threshold of {split['threshold']:g}, a prominence of"
        f" {split['prominence']:g} and a least area of {split['min_area']:g} px, the same for all data sets: the best"
        f" PQ ({split['pq']:.3f}) on training tiles that it was not trained on.",
        f"Patches of {how['size']} px overlap by {how['overlap']} px; an object belongs to the patch whose core holds"
        " the middle of its box. *Ellipses* fill the detector's boxes without any network.",
        f"Decoder: `{how['decoder']['file']}`, SHA-256 `{how['decoder']['sha256'][:12]}…`.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)


def _curve(curve: Mapping[str, Any]) -> str:
    lines = [
        "## How many tiles it takes",
        "",
        f"Decoders of {curve['steps']} steps of {curve['batch']} patches, on {curve['variants']} variants of each tile,"
        " measured by their own objects on the validation tiles, with the default thresholds: the mean of three seeds,"
        " each with other tiles, and the least to the most of them. These runs are far shorter than the recipe's, whose"
        " result is *domain decoder* above.",
        "",
        "![Dice and PQ by number of tiles](../images/learning-curve.png)",
        "",
        *_seeds("training tiles", curve["scores"]),
        "",
        "## Whether SAM may annotate",
        "",
        f"{curve['redrawn']} tiles, with the annotations that they have; with LiteMedSAM's mask for the box of every"
        " annotated nucleus; and with its masks for the boxes of the classical detector, which nobody looked at."
        " Points are left out: LiteMedSAM was trained on boxes alone.",
        "",
        *_seeds("annotations", curve["annotators"]),
    ]
    return "\n".join(lines)


def _seeds(heading: str, scores: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    lines = [f"| {heading} | Dice | PQ |", "| --- | --- | --- |"]
    for name, rows in scores.items():
        cells = [_spread([row[metric] for row in rows]) for metric in ("dice", "pq")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _spread(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _cell(estimate: Sequence[float]) -> str:
    value, low, high = estimate
    return f"{value:.3f}<br>({low:.3f}–{high:.3f})"
