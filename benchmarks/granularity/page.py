"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from typing import Any

from benchmarks.granularity.measuring import ALONE, TOGETHER
from benchmarks.granularity.study import STRUCTURES, checks
from benchmarks.granularity.training import MANY, MATCHINGS, ONE
from benchmarks.pages import table
from wsi_pipeline.training.semantic_sam_head import HIT


def render(found: dict[str, Any], command: str) -> str:
    """Markdown.

    Args:
        found: the result of ``study.run``.
        command: what wrote the page.
    """
    parts = [_intro(command), _wishes(found), _structures(found), _levels(found), _how(found)]
    return "\n\n".join(parts) + "\n"


def _intro(command: str) -> str:
    return (
        "# Granularity from one click\n\nA click in a nucleus is a click in a cell and in a gland, too. The small"
        " Semantic-SAM on LiteMedSAM's frozen encoder learns all true masks around a click (*many-to-many*); beside it,"
        f" the same network that learns one of them at a time, as SAM does (*many-to-one*).\n\n```sh\n{command}\n```"
        "\n\nThe command writes the whole of this page; no number is typed by hand.\n\n"
        "!!! warning\n    The scenes are drawn: the page shows that the mechanism works, and not what it finds on"
        " slides."
    )


def _wishes(found: dict[str, Any]) -> str:
    every = checks(found)
    rows = ([one.wished, _number(one.measured), "yes" if one.reached else "**no**"] for one in every)
    reasons = "".join(f"\n\n{one.why}" for one in every if one.why and not one.reached)
    return (
        f"## What was wished for\n\nOn {found['pieces']} pieces of {found['test']} scenes that nobody learned from,"
        f" {found['clicks']} clicks; one seed ({found['seed']}), so the digits are those of one run. The thresholds"
        f" were set before anything was measured.\n\n{table(['wished', 'measured', 'reached'], rows)}{reasons}"
    )


def _number(measured: float) -> str:
    return f"{measured:.1e}" if 0 < measured < 1e-3 else f"{measured:.3f}"


def _structures(found: dict[str, Any]) -> str:
    both = [found["networks"][matching]["structures"] for matching in MATCHINGS]
    rows = [
        [
            name,
            str(both[0][name]["masks"]),
            *(f"{one[name][key]:.3f}" for key in ("recall", "best_iou") for one in both),
        ]
        for name in STRUCTURES
        if name in both[0]
    ]
    scores = [found["networks"][matching]["scores"] for matching in MATCHINGS]
    masks = sum(one["masks"] for one in both[0].values())
    rows.append(["all", str(masks), *(f"{one[key]:.3f}" for key in ("recall", "best_iou") for one in scores)])
    heading = ["true masks", "number", *(f"{what}, {how}" for what in ("recall", "best IoU") for how in MATCHINGS)]
    return f"## What is found\n\n{table(heading, rows)}"


def _levels(found: dict[str, Any]) -> str:
    rows = (
        [matching, *(f"{number:.3f}" for number in (*one["areas"], one["scores"]["order"]))]
        for matching, one in found["networks"].items()
    )
    heading = ["mean share of the patch", *(f"level {level}" for level in range(1, 7)), "Spearman"]
    return f"## Levels\n\n{table(heading, rows)}"


def _how(found: dict[str, Any]) -> str:
    recipe, many, one = found["recipe"], found["networks"][MANY], found["networks"][ONE]
    network = recipe["network"]
    lines = [
        "Scenes: glands of 124 to 184 px with a ring of cells, cells about 36 px wide with a nucleus of about 20 px,"
        " two types of cell that are seen in the cytoplasm alone. Patches are 256 px, the encoder's maps 64 cells wide:"
        " how large cells and the gaps between them are was chosen with a look at other scenes, while the network was"
        " being mended, so that these maps can show them. Smaller ones were not measured.",
        f"Learned from: {found['train']} other scenes, half of them with names of objects alone, half with names of"
        " parts alone.",
        f"The recipe `semantic-sam`, width {network['width']}, {network['layers']} layers, {recipe['clicks']} clicks a"
        f" step: {many['steps']} steps ({many['minutes']:.0f} minutes) many-to-many, {one['steps']} steps"
        f" ({one['minutes']:.0f} minutes) many-to-one, one thread of a machine that others used, too.",
        f"Recall: share of all true masks around a click that one of the six answers hits with an IoU of {HIT}. A click"
        " is in a random px of a random object, so that large and small ones are clicked as often.",
        "Levels: the order of the six answers by their mean area, measured on the training scenes and stored in the"
        " file; here on the others. The correlation is over all answers to all clicks.",
        "Quality, names: of the answer that is nearest to each true mask. Types of cells are told from each other and"
        " from glands, nuclei from cytoplasm and lumens.",
        f"A click alone: the greatest difference of probabilities of masks, qualities, boxes and logits of classes, of"
        f" {ALONE} clicks of a batch of {TOGETHER}.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)
