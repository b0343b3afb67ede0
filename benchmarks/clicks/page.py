"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.clicks.choosing import FIRST, FULL, MIL, PUBLISHED
from benchmarks.clicks.study import SAM_TOP
from benchmarks.pages import listed, table

_LOOKS = {
    "S1c": "The kind shows in the nucleus and, more weakly, in the cytoplasm",
    "S1a": "The kind shows in the cytoplasm alone",
    "S1b": "The kind hardly shows but in the nucleus",
}
_WISHES = {
    "above SAM": "S1c: full above SAM's own score by 0.25",
    "above plain MIL": "S1c: full above plain MIL by 0.25",
    "every seed above SAM": "S1c: every seed above SAM's own score by 0.10",
    "plumbing": "S1a: full at least 0.95",
    "branch": "instance branch: AP50 from chosen masks at least 0.8 of that from true ones",
    "nuclei": "nuclei: full above SAM's own score by 0.03",
}


def render(found: Mapping[str, Any]) -> str:
    """Markdown of what ``study.run`` gave."""
    cells, nuclei = found["cells"], found["nuclei"]
    parts = [_intro(cells), _wishes(found["passed"]), *(_look(name, cells) for name in _LOOKS), _branch(cells)]
    if nuclei is not None:
        parts.append(_nuclei(nuclei))
    return "\n\n".join([*parts, _how(cells)]) + "\n"


def _intro(cells: Mapping[str, Any]) -> str:
    return (
        "# What a click means\n\nSAPNet chooses one of the masks that are proposed for a click, and learns to choose"
        " from the classes of clicks alone. Here it does so on drawn cells, where a proposal is the nucleus, the cell,"
        " the cell with its neighbour, half of it, or one of two wider ones, and on nuclei, where LiteMedSAM proposes."
        " Numbers are the mean IoU of the chosen masks with the cells or nuclei. `python -m benchmarks.clicks` writes"
        " this page; no number is typed by hand.\n\n"
        f"Networks were trained with the seeds {listed(cells['seeds'])}, each on scenes of its own."
    )


def _wishes(passed: Mapping[str, bool]) -> str:
    rows = [[_WISHES[name], "yes" if reached else "**no**"] for name, reached in passed.items()]
    return f"## What was expected\n\n{table(['expected', 'reached'], rows)}"


def _look(name: str, cells: Mapping[str, Any]) -> str:
    rows = [[way, *_numbers(values)] for way, values in cells["looks"][name].items()]
    return f"## {name}: drawn cells\n\n{_LOOKS[name]}.\n\n{table(['who chooses', 'mean', 'each seed'], rows)}"


def _branch(cells: Mapping[str, Any]) -> str:
    rows = [[name, *_numbers(values)] for name, values in cells["branch"].items()]
    return (
        "## Without clicks\n\nThe instance branch after training on the masks that were chosen for clicks, and on the"
        f" true ones: AP50 on S1c, {cells['branch_steps']} steps.\n\n"
        f"{table(['learned from', 'mean', 'each seed'], rows)}"
    )


def _nuclei(nuclei: Mapping[str, Any]) -> str:
    ways = {
        FULL: nuclei["chosen"],
        "SAM's own score and S^dis, without training": nuclei["guided"],
        SAM_TOP: nuclei["sam"],
        "best of them": nuclei["best"],
    }
    asked = [f"{side:g} px" for side in nuclei["sides"]]
    asked += [f"{one}, farther" for one in asked] if nuclei["low_patch"] else []
    ways |= {f"always the answer to the box of {one}": value for one, value in zip(asked, nuclei["each"], strict=True)}
    rows = [[way, f"{value:.3f}"] for way, value in ways.items()]
    alone = ([name, f"{one['f1']:.3f}", f"{one['pq']:.3f}"] for name, one in nuclei["without"].items())
    return (
        f"## Nuclei\n\n{nuclei['nuclei']} clicks, one in each nucleus of the middle of the {nuclei['tiles']} nuclei"
        f" tiles of the split `val`. The network is `{nuclei['file']}` (SHA-256 `{nuclei['sha256'][:12]}…`),"
        " trained on clicks on the tiles of the split `train`. There is but one class, which is told from the"
        " background alone, so that most of the gain is that a mask with other clicks in it is a group, which needs no"
        " training. Proposals are LiteMedSAM's answers to boxes of growing sides around the click. Sides, how random"
        " boxes are drawn and how much a class counts were settled on the tiles of `train`, with the numbers of `val`"
        " in sight.\n\n"
        f"{table(['who chooses', 'IoU'], rows)}\n\nWithout clicks, on the same tiles:\n\n"
        f"{table(['what finds', 'F1 at IoU 0.5', 'PQ'], alone)}"
    )


def _how(cells: Mapping[str, Any]) -> str:
    lines = [
        f"*{FULL}* is the method; *{FIRST}* is what it chooses before it looks around its choice (PSM). *{MIL}* is"
        " without point distance guidance (PDG), negatives and box mining (BMS); the others are without one of these."
        f" *{PUBLISHED}* takes the mask nearest to the final box whatever SAM thinks of it, and its random boxes are of"
        " any size.",
        f"Each network learned from {cells['scenes']} scenes, one a step, {cells['steps']} steps, and chose on"
        f" {cells['test']} others of nine cells each. Its backbone is three convolutions of stride 4 with group norm.",
        "Seeds differ by much: rows whose ranges overlap are not told apart by so few of them.",
        "What SAM says of its masks is drawn: most of the nucleus. *Best* takes the right mask each time.",
        "The network's norm and the limit from which on the inner half of a box is a negative (8² px) were settled on"
        " other scenes and seeds before.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)


def _numbers(values: Sequence[float]) -> list[str]:
    return [f"{np.mean(values):.2f}", listed(f"{value:.2f}" for value in values) if len(values) > 1 else ""]
