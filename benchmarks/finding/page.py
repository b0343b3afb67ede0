"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages import table

HEADINGS = {
    "pq": "PQ",
    "f1": "F1 = DQ",
    "sq": "SQ",
    "precision": "precision",
    "recall": "recall",
    "aji": "AJI",
    "dice": "Dice",
}


def render(found: Mapping[str, Any]) -> str:
    """Markdown of what ``study.run`` gave."""
    parts = [_intro(found), *_tables(found), _differences(found["differences"]), _how(found)]
    if found["adapted"]:
        parts.append(_adapted(found["adapted"]))
    return "\n\n".join(parts) + "\n"


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
    return [_way_table(title, {name: scores[title] for name, scores in found["scores"].items()}) for title in titles]


def _way_table(title: str, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    cells = ([name, *(_cell(row[metric]) for metric in HEADINGS)] for name, row in rows.items())
    return f"## {'All tiles' if title == 'all' else title}\n\n{table(['way', *HEADINGS.values()], cells)}"


def _differences(differences: Mapping[str, Any]) -> str:
    lines = [
        "## PQ against the classical detector",
        "",
        "In points: from the classical detector with the same segmenter, or with ellipses where there is none; from the"
        f" detector with the bare backbone; and from *{differences['base']}*, its best way.",
        "",
    ]
    heading = ["way", "like with like", "from the bare backbone", "from its best way"]
    rows = (
        [name, *(_points(differences[what][name]) for what in ("alike", "bare", "best"))]
        for name in differences["alike"]
    )
    return "\n".join([*lines, table(heading, rows)])


def _adapted(adapted: Mapping[str, Mapping[str, Any]]) -> str:
    *_, base = adapted
    lines = [
        "## What adapting the encoder brings",
        "",
        "LoRA-SAM, trained alike with adapters of several ranks on the same tiles. Differences in points, over all"
        f" tiles, from *{base}*, whose encoder is as it was.",
        "",
    ]
    rows = []
    for name, one in adapted.items():
        minus = [_points(one["minus"][metric]) if name != base else "" for metric in ("dice", "pq")]
        rows.append([name, f"{one['adapter']:,}", f"{one['share']:.2%}", f"{one['rest']:,}", *minus])
    return "\n".join([*lines, table(["way", "adapter", "of the encoder", "heads", "Dice", "PQ"], rows)])


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
    why = "as in the workflow `nuclei-decoder`"
    if split["pq"] is not None:
        why = f"the best PQ ({split['pq']:.3f}) on training tiles that it was not trained on"
    lines = [
        "All tiles are looked at in their own px, as nobody knows their resolution.",
        f"The classical detector works in µm, so the training tiles of each data set say what suits it: {told}.",
        f"The decoder's objects are told apart with a threshold of {split['threshold']:g}, a prominence of"
        f" {split['prominence']:g} and a least area of {split['min_area']:.0f} px, the same for all data sets: {why}.",
        f"Patches of {how['size']} px overlap by {how['overlap']} px; an object belongs to the patch whose core holds"
        f" the middle of its box; objects of less than {how['least']:.0f} px are left out, as in a run. *Ellipses* fill"
        " the detector's boxes without any network. A segmenter behind *lora-sam* draws its objects again.",
        f"Decoder: `{how['decoder']['file']}`, SHA-256 `{how['decoder']['sha256'][:12]}…`.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)


def _cell(estimate: Sequence[float]) -> str:
    value, low, high = estimate
    return f"{value:.3f}<br>({low:.3f}–{high:.3f})"
