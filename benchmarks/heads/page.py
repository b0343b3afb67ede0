"""The page, from the dictionary that ``study.run`` gives and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.pages import interval, table

METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "boundary_iou": "Boundary IoU",
    "narrow_boundary_iou": "Narrow boundary IoU",
}
CHANGED = {
    "whole": "nothing",
    "high token only": "low token",
    "low token only": "high token",
    "no fused features": "the features fused from the image embedding and the encoder's early map",
    "one resolution": "the surroundings: both branches see the high patch",
}


def render(found: Mapping[str, Any], command: str) -> str:
    """Markdown.

    Args:
        found: the result of ``study.run``.
        command: what wrote the page.
    """
    parts = [
        _intro(found, command),
        _how(found["how"], found["sets"]["all"]["objects"]),
        _models(found),
        *_means(found),
        *_differences(found),
        *_ablation(found),
    ]
    return "\n\n".join(parts) + "\n"


def _intro(found: Mapping[str, Any], command: str) -> str:
    how, whole = found["how"], found["sets"]["all"]
    limited = (
        f"\n\n!!! warning\n    A quick look: at most {how['limit']} objects of each tile, evenly spread."
        if how["limit"]
        else ""
    )
    return (
        "# Shipped heads\n\nWhat a head adds to the backbone it stands on, and to no model at all:"
        f" {whole['objects']} objects of {whole['groups']} groups (patients or fields) on the {how['tiles']} tiles of"
        f" the split `{how['split']}`.\n\n```sh\n{command}\n```\n\nThe command writes the whole of this page; no number"
        f" is typed by hand.{limited}"
    )


def _how(how: Mapping[str, Any], objects: int) -> str:
    shrunk = ", ".join(f"{name} at 1/{by}" for name, by in how["shrink"].items() if by > 1)
    wide, narrow = (how["boundary"][name] for name in ("boundary_iou", "narrow_boundary_iou"))
    size, overlap, factor = how["size"], how["overlap"], how["context_factor"]
    lines = [
        f"Tiles are asked about at their own px, {shrunk} of their size. They are cut into patches of {size} px that"
        f" overlap by {overlap} px, as a run cuts a slide; the low patch sees {factor:g} times as far. What lies beyond"
        " a tile is its mirror image, where neither truth nor answers count.",
        "Every object is asked about once, in the patch where it lies most centrally."
        f" {how['cut']} of them reach beyond it; there the part within counts, with a box around it. Objects of fewer"
        f" than {how['smallest']} px are left out.",
        f"Masks are drawn in a window around the box (`window_margin: {how['window_margin']:g}`), without a box on the"
        f" whole patch, in {how['precision']}.",
        "A tight box ends at the outermost px edges of the object. In a jittered one the middle moves by up to so many"
        " percent of half its side, and the sides change by up to so many percent. Every head gets the same boxes.",
        "Points are centres of px of the object, all equally likely; a noised mask is the object's own with px flipped"
        " along its contour, and comes with the box around it, as an outline does in use.",
        "Boundary IoU is the IoU of the px that an erosion with a square takes away from both masks, on the patch; the"
        f" patch's edge and the tile's count as outside. Usually the erosion is {_percent(wide[0])} of the patch's"
        f" diagonal, {wide[1]} px; then {how['nothing_but_boundary']} of the {objects} objects are nothing but"
        f" boundary. So there is a narrow one of {_percent(narrow[0])}, {narrow[1]} px, too.",
        "Each number is a mean over objects. Nuclei are so many that larger objects hardly count in *all*.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)


def _models(found: Mapping[str, Any]) -> str:
    rows = [
        (f"`{name}`", _files(model["files"]), _knowledge(model["knows"])) for name, model in found["models"].items()
    ]
    listed = table(("model", "weights, with the beginning of their SHA-256", "groups of these tiles it knows"), rows)
    sentences = _left_out(found)
    return f"## What is compared\n\n{listed}\n\n{sentences}".rstrip()


def _files(files: Mapping[str, Mapping[str, str]]) -> str:
    return ", ".join(f"`{one['file']}` ({one['sha256'][:12]})" for one in files.values())


def _knowledge(knows: Mapping[str, Sequence[str]] | None) -> str:
    if knows is None:
        return "no card says"
    return ", ".join(f"{len(names)} in {split}" for split, names in knows.items())


def _left_out(found: Mapping[str, Any]) -> str:
    """One sentence for all models that take the same kinds of prompts."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, model in found["models"].items():
        alike.setdefault(tuple(model["prompt_kinds"]), []).append(f"`{name}`")
    sentences = []
    for kinds, names in alike.items():
        missing = [way for way, needed in found["how"]["ways"].items() if not set(needed) <= set(kinds)]
        if missing:
            sentences.append(
                f"{', '.join(names)}: trained for {' and '.join(kinds)} prompts only, so not asked with"
                f" {', '.join(missing)}."
            )
    return " ".join(sentences)


def _means(found: Mapping[str, Any]) -> Iterable[str]:
    sets = found["sets"]
    heading = ["asked with", "who", *(f"{name} ({count['objects']})" for name, count in sets.items())]
    ways = [way for way in found["how"]["ways"] if any(way in by_way for by_way in found["means"].values())]
    for metric, title in METRICS.items():
        rows = [
            (way, _who(name), *(f"{by_way[way][one][metric]:.3f}" for one in sets))
            for way in ways
            for name, by_way in found["means"].items()
            if way in by_way
        ]
        yield f"## {title}\n\n{table(heading, rows)}"


def _differences(found: Mapping[str, Any]) -> Iterable[str]:
    bootstrap, sets = found["how"]["bootstrap"], found["sets"]
    groups = ", ".join(f"{count['groups']} of {name}" for name, count in sets.items())
    ways = found["how"]["boxes"]
    yield (
        f"## Differences\n\nWith {_percent(bootstrap['confidence'])} intervals from {bootstrap['replicates']} paired"
        f" bootstrap draws of whole groups (seed {bootstrap['seed']}). There are few groups ({groups}), so the"
        " intervals are too narrow; those of three groups or fewer hardly mean anything. Dice is with tight boxes,"
        f" boundary IoU is the mean of {len(ways)} ways: {'; '.join(ways)}."
    )
    for base, by_name in found["differences"].items():
        if by_name:
            rows = [(_who(name), *map(interval, values.values())) for name, values in by_name.items()]
            yield f"Minus {_who(base)}:\n\n{table(['who', *next(iter(by_name.values()))], rows)}"


def _ablation(found: Mapping[str, Any]) -> Iterable[str]:
    changes = found["ablation"]
    if not changes:
        return
    rows = []
    for name, one in changes.items():
        differences = one.get("differences", {})
        cells = (
            f"{value:.3f}" + (f"<br>{interval(differences[measure])}" if differences else "")
            for measure, value in one["values"].items()
        )
        rows.append((CHANGED[name], *cells))
    yield (
        "## Parts of WSI-SAM\n\nThe same trained heads with one part taken out when they are asked, not trained without"
        " it. SAM's mask, to which theirs is added, stays. Below each value its difference from the whole.\n\n"
        + table(["without", *changes["whole"]["values"]], rows)
    )


def _who(name: str) -> str:
    return name if " " in name else f"`{name}`"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
