"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.pages import table
from benchmarks.similar.ways import BOXES, FORWARD, LIKENESS, MATCHER, OTSU, OTSU_RAW, RAW

ROWS = (OTSU_RAW, OTSU, LIKENESS, RAW, FORWARD, MATCHER, BOXES)


def render(found: Mapping[str, Any]) -> str:
    """Markdown of what the benchmark found."""
    subjects = found["subjects"]
    drawn, real = ([one for one in subjects if (one["data"] == "drawn") == wanted] for wanted in (True, False))
    lines = [
        "# Finding what looks like an example",
        "",
        "`python -m benchmarks.similar --data tiles` writes this page; no number is typed by hand.",
        "",
        "One tile with its objects outlined is the example, other tiles are searched; nothing is trained. Features are"
        " those of the embedded LiteMedSAM, which also draws. Numbers are the mean IoU of all that is found on a tile"
        " with the truth.",
        "",
        "## Drawn tissue",
        "",
        "Tiles of 512 px at half their size, each stained a little differently. They show that the parts work and have"
        " no clinical value. How the threshold of likeness is taken and the default of `min_presence` were settled with"
        " a look at these very tiles: the numbers are a fit, not a test. Annotated tiles were not looked at before.",
        "",
        _overlaps(drawn),
        "",
        f"One tile and class take {np.mean([second for one in drawn for second in one['seconds']]):.1f} s of one core,"
        " the encoder included where the patch was not known.",
        "",
        "### Where there is none",
        "",
        "The published method always finds something. Here a tile yields nothing where its `presence` is less than"
        f" {found['min_presence']:g}, or where no mask is more like the examples than like their surroundings.",
        "",
        table(
            ["class", "tiles with it: found", "tiles without it: nothing found", "presence with it", "without it"],
            (_rejected(one, found["min_presence"]) for one in drawn),
        ),
        "",
        "### More examples, or fewer",
        "",
        table(
            [
                "class",
                *(f"{count} tile{'s' * (count > 1)}" for count in range(1, 4)),
                "one object",
                "and all around it",
            ],
            (_shots(found, one["name"]) for one in drawn),
        ),
        "",
        "With one object outlined only its near surroundings are taken for something else, because its like may lie"
        " around it; the last column is what happens where that is not heeded.",
        "",
        *(_real(real, found) if real else ()),
        "## Outliers",
        "",
        *_outliers(found["outliers"]),
    ]
    return "\n".join(lines) + "\n"


def _overlaps(subjects: Sequence[Mapping[str, Any]]) -> str:
    names = [f"{one['name']} ({one['data']})" if one["data"] != "drawn" else one["name"] for one in subjects]

    def row(way: str) -> list[str]:
        values = [float(np.mean(one["overlaps"][way])) for one in subjects]
        return [
            f"**{way}**" if way == MATCHER else way,
            *(f"{value:.2f}" for value in values),
            f"{np.mean(values):.2f}",
        ]

    return table(["", *names, "mean"], (row(way) for way in ROWS))


def _rejected(one: Mapping[str, Any], least: float) -> list[str]:
    presence = {kind: np.array(values) for kind, values in one["presence"].items()}
    there = np.array(one["found"]["present"]) & (presence["present"] >= least)
    nothing = ~np.array(one["found"]["absent"])
    ranges = (f"{values.min():.2f} to {values.max():.2f}" for values in presence.values())
    return [one["name"], f"{there.mean():.0%}", f"{nothing.mean():.0%}", *ranges]


def _shots(found: Mapping[str, Any], name: str) -> list[str]:
    single = found["single"][name]
    return [name, *(f"{value:.2f}" for value in found["shots"][name]), f"{single['near']:.2f}", f"{single['all']:.2f}"]


def _real(real: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> list[str]:
    first = real[0]
    single, nothing = found["single"][first["name"]], ~np.array(first["found"]["absent"])
    return [
        "## Annotated tiles",
        "",
        "The first tile of a data set is the example. Tiles of `rings_prostate` with tumour have benign glands that are"
        " not annotated, and all tiles of `ocdc` are of one slide.",
        "",
        _overlaps(real),
        "",
        f"With a single {first['name']} outlined it is {single['near']:.2f}; on {nothing.mean():.0%} of {len(nothing)}"
        " tiles of another organ nothing is found.",
        "",
    ]


def _outliers(outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    def mean(name: str) -> float:
        return float(np.mean([one[name] for one in outcomes]))

    before, after = (np.mean([one["distractors"][when] for one in outcomes]) for when in (0, 1))
    worst = min(one["checked"] for one in outcomes)
    return [
        f"Features without an image, {len(outcomes)} seeds: of the matches {mean('forward'):.2f} are true, and"
        f" {mean('checked'):.2f} after the reverse check (worst seed {worst:.2f}); distractors among them {before:.0f}"
        f" and {after:.0f}; of the true ones {mean('recall'):.2f} stay.",
    ]
