"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.granularity.measuring import ALONE, TOGETHER
from benchmarks.granularity.study import STRUCTURES, checks, mean_scores
from benchmarks.granularity.tiles import SIDES
from benchmarks.granularity.training import BY_SIZE, MANY, MATCHINGS
from benchmarks.pages import listed, table
from wsi_pipeline.training.semantic_sam_head import HIT


def render(found: Mapping[str, Any], command: str) -> str:
    """Markdown.

    Args:
        found: the result of ``study.run``.
        command: what wrote the page.
    """
    parts = [_intro(command), _wishes(found), _structures(found), _levels(found)]
    if found["tiles"] is not None:
        parts.append(_tiles(found["tiles"]))
    return "\n\n".join([*parts, _how(found)]) + "\n"


def _intro(command: str) -> str:
    return (
        "# Granularity from one click\n\nA click in a nucleus is a click in a cell and in a gland, too. The small"
        " Semantic-SAM on LiteMedSAM's frozen encoder learns all true masks around a click: *many-to-many* as"
        " published, where each mask is learned by the answer that is nearest to it and answers that no mask needs"
        " learn nothing, or *by-size*, which is ours, where all six learn, the first from the largest mask and the last"
        " from the smallest. Beside them, the same network that learns one mask of a click at a time, as SAM does"
        f" (*many-to-one*).\n\n```sh\n{command}\n```\n\nThe command writes the whole of this page; no number is typed"
        " by hand.\n\n!!! warning\n    Scenes are drawn: they show that the mechanism works, and not what it finds on"
        " slides."
    )


def _wishes(found: Mapping[str, Any]) -> str:
    columns = [checks(found, matching) for matching in (MANY, BY_SIZE)]
    rows = (
        [one.wished, *(f"{_number(each.measured)}, {'yes' if each.reached else '**no**'}" for each in (one, other))]
        for one, other in zip(*columns, strict=True)
    )
    true = found["true"]
    return (
        f"## What was wished for\n\nOn {found['pieces']} pieces of {found['test']} scenes that nobody learned from,"
        f" {found['clicks']} clicks; means over seeds ({listed(found['seeds'])}). The thresholds were set before"
        f" anything was measured.\n\n{table(['wished', MANY, BY_SIZE], rows)}\n\nThe order is over all answers to all"
        " clicks, which have at most three true masks here: several answers share one, and some glands are as small as"
        f" others' cells. The true masks themselves, spread over six levels, reach {true['order']:.3f}.\n\n"
        "Many-to-one, too, the answer that is nearest to a mask alone learns from it, so that its six answers settle on"
        " masks of several sizes as well. What is known beforehand is less: which of the six is how coarse."
    )


def _number(measured: float) -> str:
    return f"{measured:.1e}" if 0 < measured < 1e-3 else f"{measured:.3f}"


def _structures(found: Mapping[str, Any]) -> str:
    every = [found["networks"][matching] for matching in MATCHINGS]
    names = [name for name in STRUCTURES if name in every[0][0]["structures"]]
    masks = [every[0][0]["structures"][name]["masks"] for name in names]
    rows = [
        [name, str(number), *(_mean(one, "structures", name, key) for key in ("recall", "best_iou") for one in every)]
        for name, number in zip(names, masks, strict=True)
    ]
    whole = [_mean(one, "scores", key) for key in ("recall", "best_iou") for one in every]
    heading = ["true masks", "number", *(f"{what}, {how}" for what in ("recall", "best IoU") for how in MATCHINGS)]
    return f"## What is found\n\n{table(heading, [*rows, ['all', str(sum(masks)), *whole]])}"


def _mean(networks: list[Mapping[str, Any]], *keys: str) -> str:
    """Of a number over seeds."""
    numbers = []
    for network in networks:
        value: Any = network
        for key in keys:
            value = value[key]
        numbers.append(value)
    return f"{np.mean(numbers):.3f}"


def _levels(found: Mapping[str, Any]) -> str:
    rows = [
        _level_row(matching, np.mean([one["areas"] for one in networks], axis=0), mean_scores(networks))
        for matching, networks in found["networks"].items()
    ]
    rows.append(_level_row("true masks", found["true"]["areas"], found["true"]))
    levels = [f"level {level}" for level in range(1, 7)]
    heading = ["mean share of the patch", *levels, "Spearman, all answers", "Spearman, answers to a click"]
    return f"## Levels\n\n{table(heading, rows)}"


def _level_row(name: str, areas: Any, scores: Mapping[str, float]) -> list[str]:
    return [name, *(f"{number:.3f}" for number in (*areas, scores["order"], scores["within"]))]


def _tiles(tiles: Mapping[str, Any]) -> str:
    rows = [
        [model, *(f"{by_class[name][key]:.3f}" for name in tiles["clicks"] for key in ("best", "surest"))]
        for model, by_class in tiles["models"].items()
    ]
    heading = ["model", *(f"{name}, {what}" for name in tiles["clicks"] for what in ("best of six", "surest"))]
    clicks = ", ".join(f"{count} of {name}" for name, count in tiles["clicks"].items())
    return (
        f"## Tiles\n\nMean IoU with annotated objects of the split `val` that were clicked near their middle: {clicks}."
        f" The network is `{tiles['file']}` (SHA-256 `{tiles['sha256'][:12]}…`), trained on the split `train`. `sam`"
        " and `hq-sam` are the models of that name on LiteMedSAM, which take boxes: a click is asked about with boxes"
        f" of {listed(f'{side:g}' for side in SIDES)} px around it. Tiles are annotated at one granularity each.\n\n"
        f"{table(heading, rows)}"
    )


def _how(found: Mapping[str, Any]) -> str:
    recipe, networks = found["recipe"], found["networks"]
    network = recipe["network"]
    minutes = ", ".join(
        f"{np.mean([one['minutes'] for one in some]):.0f} minutes {how}" for how, some in networks.items()
    )
    lines = [
        "Scenes: glands of 124 to 184 px with a ring of cells, cells about 36 px wide with a nucleus of about 20 px,"
        " two types of cell that are seen in the cytoplasm alone. Patches are 256 px, the encoder's maps 64 cells wide:"
        " how large cells and the gaps between them are was chosen with a look at other scenes, while the network was"
        " being mended, so that these maps can show them. Smaller ones were not measured.",
        f"Learned from: {found['train']} other scenes, half of them with names of objects alone, half with names of"
        " parts alone.",
        f"The recipe `semantic-sam`, width {network['width']}, {network['layers']} layers, {recipe['clicks']} clicks a"
        f" step, {networks[MANY][0]['steps']} steps: {minutes}, one thread of a machine that others used, too.",
        f"Recall: share of all true masks around a click that one of the six answers hits with an IoU of {HIT}. A click"
        " is in a random px of a random object, so that large and small ones are clicked as often.",
        "Levels: the order of the six answers by their mean area, measured on the training scenes and stored in the"
        " file; here on the others.",
        "Quality, names: of the answer that is nearest to each true mask. Types of cells are told from each other and"
        " from glands, nuclei from cytoplasm and lumens.",
        f"A click alone: the greatest difference of probabilities of masks, qualities, boxes and logits of classes, of"
        f" {ALONE} clicks of a batch of {TOGETHER}.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)
