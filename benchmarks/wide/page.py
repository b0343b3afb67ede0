"""The page, from the dictionary that ``study.run`` gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages import interval, table

LIMIT = 0.02
"""Dice that a faster encoder may lose, of nuclei and of larger objects."""
FLAT = 0.005
"""Dice that the last half of the steps has to gain for the curve to count as rising."""


def render(found: Mapping[str, Any], command: str) -> str:
    """Markdown.

    Args:
        found: the result of ``study.run``.
        command: what wrote the page.
    """
    parts = [_intro(found, command), _verdict(found), _dice(found), _speed(found["speed"]), _how(found)]
    return "\n\n".join(parts) + "\n"


def _intro(found: Mapping[str, Any], command: str) -> str:
    size = found["how"]["size"]
    limit = found["how"]["limit"]
    limited = f"\n\n!!! warning\n    A quick look: at most {limit} objects of each tile." if limit else ""
    return (
        f"# A wider patch\n\nLiteMedSAM spends 64 × 64 tokens on a patch of {size} px. Its student *lite-wide* spends"
        f" as many on {2 * size} px of the same µm per px, with the same decoder. What that wins and loses:\n\n"
        f"```sh\n{command}\n```\n\nThe command writes the whole of this page; no number is typed by hand.{limited}"
    )


def _verdict(found: Mapping[str, Any]) -> str:
    first, *_, last = found["differences"].values()
    good = all(difference[0] > -LIMIT for difference in last.values())
    decided = "**It passes**: neither is" if good else "**It is left out**: one is"
    return (
        f"## Result\n\nThe student's Dice minus its teacher's is {_list(last, found['sets'])}; that of the teacher on a"
        f" shrunk image is {_list(first, found['sets'])}. {decided} below {-LIMIT:g}, the limit. Its encoder is"
        f" {found['speed']['px']:.1f} times as fast per px. {_outlook(found)} {_ellipse(found)}"
    )


def _list(differences: Mapping[str, Sequence[float]], sets: Mapping[str, Mapping[str, int]]) -> str:
    return " and ".join(
        f"{difference[0]:+.4f} for {name} ({sets[name]['objects']})" for name, difference in differences.items()
    )


def _outlook(found: Mapping[str, Any]) -> str:
    *_, half, last = found["differences"].values()
    worst = min(last, key=lambda name: last[name][0])
    gain = last[worst][0] - half[worst][0]
    said = f"The last half of the steps changed that of {worst} by {gain:+.3f}"
    seems = "so the limit seems to be training time" if gain > FLAT else "so more such steps would hardly help"
    return f"{said}, {seems}: all of it took {sum(found['minutes'].values()):.0f} CPU-minutes."


def _ellipse(found: Mapping[str, Any]) -> str:
    ellipse, teacher, *_ = (row["all"] for row in found["dice"].values())
    better = "better" if ellipse > teacher else "worse"
    return f"The ellipse in the box, without any network, is {better} than the teacher by {abs(ellipse - teacher):.3f}."


def _dice(found: Mapping[str, Any]) -> str:
    sets = found["sets"]
    heading = ["who", *(f"{name} ({count['objects']})" for name, count in sets.items()), "loss"]
    rows = []
    for name, row in found["dice"].items():
        loss = found["losses"].get(name)
        who = f"student, {name} steps" if name in found["losses"] else name
        rows.append([who, *(f"{row[one]:.3f}" for one in sets), "" if loss is None else f"{loss:.3f}"])
    families = next(iter(found["differences"].values()))
    differences = [[f"{steps} steps", *map(interval, row.values())] for steps, row in found["differences"].items()]
    bootstrap = found["how"]["bootstrap"]
    return (
        f"## Dice\n\nMeans over objects, with tight boxes. The loss is the mean over the steps since the row above.\n\n"
        f"{table(heading, rows)}\n\nThe student's minus the teacher's, with {100 * bootstrap['confidence']:g} %"
        f" intervals from {bootstrap['replicates']} paired bootstrap draws of whole groups (seed {bootstrap['seed']});"
        f" there are few groups, so they are too narrow.\n\n{table(['student', *families], differences)}"
    )


def _speed(speed: Mapping[str, float]) -> str:
    return (
        f"## Time\n\nOn one thread, in one run, a patch costs the student's encoder {speed['patch']:.2f} times what a"
        f" patch of a quarter of its area costs its teacher's. So it is {speed['px']:.1f} times as fast per px, and"
        f" {speed['run']:.1f} times per px of a slide in a run, where patches overlap. Decoding takes as long as ever."
    )


def _how(found: Mapping[str, Any]) -> str:
    how, minutes = found["how"], found["minutes"]
    shrunk = ", ".join(f"{name} at 1/{by}" for name, by in how["shrink"].items() if by > 1)
    lines = [
        f"Measured on {found['sets']['all']['objects']} objects of the split `{how['split']}`, as [shipped heads]"
        f"(shipped-heads.md) are: tiles at their own px, {shrunk}; what lies beyond a tile is its mirror image. Nothing"
        " was chosen on them.",
        "The student is LiteMedSAM's encoder with a wider first convolution that halves the image. At first it computes"
        " what LiteMedSAM does of 2 × 2 px means: 0 steps is LiteMedSAM on a shrunk image. All of the encoder is"
        " trained, the decoder is not.",
        f"It learns from {how['answers']} masks that LiteMedSAM draws at full resolution in {how['lessons']} fields of"
        f" training tiles and of {', '.join(how['slides']) or 'no slide'}, without looking at labels. Boxes are those"
        " of the nucleus detector, and those of what LiteMedSAM sees in random boxes.",
        f"Each of {how['steps']} steps takes one field, turned at random; AdamW, rate {how['rate']:g}, average of the"
        f" weights with a decay of {how['decay']:g}; binary cross entropy and Dice against LiteMedSAM's probabilities."
        f" {minutes['teacher']:.0f} CPU-minutes for the answers, {minutes['student']:.0f} for the steps.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)
