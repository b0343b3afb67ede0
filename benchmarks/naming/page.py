"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.naming.ensemble import ENSEMBLE, NETWORK
from benchmarks.pages import table
from wsi_pipeline.models.ov_sam.ensemble import ALPHA, BETA

EXPLAINED, DICE_LOSS, ACCURACY, GAIN, RATIO = 0.8, 0.03, 0.9, 0.05, 5.0
"""What is asked for: least explained variance, largest loss of Dice, least accuracy on drawn tiles, least gain over
feature-crop, and least ratio of times."""
HEAD, CROP, COLOUR = "region head", "feature-crop, nearest class mean", "colour of the whole patch"


def render(found: Mapping[str, Any]) -> str:
    """Markdown of what ``study.run`` gave."""
    parts = [_intro(found), _verdicts(found), *_drawn(found)]
    if found["real"] is not None:
        parts += _real(found)
    return "\n\n".join([*parts, _distillation(found["distillation"]), _time(found["speed"]), _how(found)]) + "\n"


def _intro(found: Mapping[str, Any]) -> str:
    how = found["how"]
    return (
        "# Naming objects\n\nWhat the region head of Open-Vocabulary SAM knows about objects whose outlines are given,"
        " on the encoder that all embedded models share. `python -m benchmarks.naming` writes this page; no number is"
        f" typed by hand. Heads are trained on {how['trained']} drawn tiles and asked on {how['asked']} others, and"
        " again on real tiles. Drawn tiles prove that something works, not that it works on tissue."
    )


def _verdicts(found: Mapping[str, Any]) -> str:
    rows = [[what, wanted, value, "yes" if met else "**no**"] for what, wanted, value, met in _points(found)]
    return f"## What was asked for\n\n{table(['', 'wanted', 'found', 'met'], rows)}"


def _points(found: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    ways, times = found["drawn"]["ways"], found["speed"]
    learned = found["distillation"]["second to fourth"]
    accuracy, chance = ways[HEAD]["accuracy"], 1 / len(found["drawn"]["counts"])
    gain, loss = accuracy - ways[CROP]["accuracy"], learned["teacher"] - learned["learned"]
    shuffled = ways["region head, names shuffled"]["balanced"]
    ratio = times["crops"] / times["pooling"]
    held, both = found["drawn"]["held out"], found["drawn"]["beside"]
    recalled = sum(one["recall"] > chance for one in held.values())
    together = sum(one[ENSEMBLE]["recall"] > chance for one in both.values())
    least = min(one[ENSEMBLE]["balanced"] for one in both.values())
    gained = min(one[ENSEMBLE]["balanced"] - one[NETWORK]["balanced"] for one in both.values())
    points = [
        (
            "explained variance of the distilled embedding",
            f"≥ {EXPLAINED:g}",
            f"{learned['explained']:.3f}",
            learned["explained"] >= EXPLAINED,
        ),
        ("Dice lost with it", f"≤ {DICE_LOSS:g}", f"{loss:.3f}", loss <= DICE_LOSS),
        ("accuracy, drawn tiles", f"≥ {ACCURACY:g}", f"{accuracy:.3f}", accuracy >= ACCURACY),
        ("more than feature-crop", f"≥ {GAIN:g}", f"{gain:+.3f}", gain >= GAIN),
        (
            "balanced accuracy with shuffled names",
            f"chance, {chance:.2f}",
            _interval(shuffled),
            shuffled[1] <= chance <= shuffled[2],
        ),
        (
            "classes never shown that their words alone find more often than chance",
            f"{len(held)} of {len(held)}",
            f"{recalled} of {len(held)}",
            recalled == len(held),
        ),
        (
            "the same, with an image-text network beside the head",
            f"{len(both)} of {len(both)}",
            f"{together} of {len(both)}",
            together == len(both),
        ),
        ("balanced accuracy of both, the least", f"> chance, {chance:.2f}", f"{least:.3f}", least > chance),
        ("the least that it is more than the network's alone", "≥ 0", f"{gained:+.3f}", gained >= 0),
        ("time of image-crop / of region pooling", f"≥ {RATIO:g}", f"{ratio:.1f}", ratio >= RATIO),
    ]
    if found["one set"] is not None:
        ways = found["one set"]["ways"]
        head, colour = (ways[name]["balanced"][0] for name in (HEAD, COLOUR))
        what = "glands against tumour in one data set, balanced: more than by colour"
        points.append((what, f"> {colour:.3f}", f"{head:.3f}", head > colour))
    return points


def _drawn(found: Mapping[str, Any]) -> list[str]:
    return [
        f"## Drawn tiles\n\n{_ways(found['drawn'])}",
        "### A class that was never shown\n\nThe head is trained with sentence vectors of the other classes and asked"
        " with those of all. *AUROC* is that of the class's logit less the best of the others; chance is 0.5.\n\n"
        + _held_out(found["drawn"]),
        _beside(found),
    ]


def _real(found: Mapping[str, Any]) -> list[str]:
    return [
        f"## Real tiles\n\nSplit as their manifest says.\n\n{_ways(found['real'])}",
        "**Beware**: nuclei come from other data sets than glands, and most tumour from a third. Whoever knows the data"
        " set by its stain, or the size of what is asked about, knows the class. The last three rows need no tissue to"
        " be understood, and say how far such a cue goes.",
        f"### A class that was never shown\n\n{_held_out(found['real'])}",
        "## Glands against tumour in one data set\n\nThe fairest question the tiles allow: one laboratory, one stain,"
        " one magnification. Each patient is named by heads that never saw it.\n\n" + _ways(found["one set"]),
    ]


def _ways(part: Mapping[str, Any]) -> str:
    counts = part["counts"]
    heading = ["way", "accuracy", "balanced accuracy", *(f"recall, {name} ({n})" for name, n in counts.items())]
    rows = [
        [
            way,
            f"{one['accuracy']:.3f}",
            _interval(one["balanced"]),
            *(f"{one['recall'][name]:.2f}" if name in one["recall"] else "" for name in counts),
        ]
        for way, one in part["ways"].items()
    ]
    chance = f"Chance is {1 / len(counts):.2f} balanced. Intervals are 95 %, over {part['groups']} groups."
    return f"{table(heading, rows)}\n\n{chance}"


def _held_out(part: Mapping[str, Any]) -> str:
    heading = ["held out", "balanced accuracy of all", "its recall", "others called so", "AUROC"]
    rows = [
        [name, *(f"{one[key]:.2f}" for key in ("balanced", "recall", "false", "auroc"))]
        for name, one in part["held out"].items()
    ]
    return "\n\n".join([table(heading, rows), *_never_said(part["held out"])])


def _beside(found: Mapping[str, Any]) -> str:
    network = found["how"]["network"]
    both = found["drawn"]["beside"]
    rows = [
        [name, way, *(f"{one[key]:.3f}" for key in ("balanced", "recall", "false", "auroc"))]
        for name, ways in both.items()
        for way, one in ways.items()
    ]
    return (
        "### A class that was never shown, with an image-text network\n\nAs published, a frozen network of images and"
        f" words is asked as well: its say is {BETA:g} on the class that is new to the head, {ALPHA:g} on all others."
        " It sees the patch once and regions on its last map (feature-crop), as `recognise.clip` with `weights` asks"
        " it. **The network stands in for a CLIP**, whose weights cannot be shipped: it is a small one, taught for"
        f" {network['steps']} steps on {network['tiles']} other drawn tiles with all of the classes, the held-out one"
        " among them, as a CLIP has seen the web. So the table shows that the ensemble does its work, and not how much"
        " a CLIP knows of tissue. The head is that of the table before.\n\n"
        + table(["held out", "way", "balanced accuracy of all", "its recall", "others called so", "AUROC"], rows)
        + _seldom_found(both)
    )


def _seldom_found(both: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    chance = 1 / len(both)
    seldom = [
        f"{name} (recall {ways[ENSEMBLE]['recall']:.2f}; by the network alone {ways[NETWORK]['recall']:.2f})"
        for name, ways in both.items()
        if ways[ENSEMBLE]["recall"] <= chance
    ]
    return f"\n\nNot found more often than chance: {', '.join(seldom)}." if seldom else ""


def _never_said(held: Mapping[str, Mapping[str, float]]) -> list[str]:
    silent = [name for name, one in held.items() if one["recall"] == 0]
    if not silent:
        return []
    return [f"Never said, though asked for: {', '.join(silent)}. Sentence vectors alone make no vocabulary open."]


def _distillation(found: Mapping[str, Any]) -> str:
    rows = [
        [name, f"{one['explained']:.3f}", f"{one['teacher']:.3f}", f"{one['learned']:.3f}"]
        for name, one in found.items()
    ]
    steps = next(iter(found.values()))["steps"]
    return (
        f"## Distilling the embedding\n\nAn adapter of two blocks after {steps} steps on drawn tiles, from some stages"
        " of the encoder; boxes of held-out objects answered with the teacher's embedding and with the learned one."
        " With the last stage among its inputs only the encoder's neck is to be learned.\n\n"
        + table(["stages", "explained variance", "Dice, teacher's", "Dice, learned"], rows)
    )


def _time(found: Mapping[str, Any]) -> str:
    pooling, encoder, crops = (found[key] for key in ("pooling", "encoder", "crops"))
    rows = [
        [f"image-crop: one pass of {found['crop_encoder']} (random weights) for each", f"{crops:.2f}", "1"],
        ["region pooling, the embedding being there", f"{pooling:.3f}", f"{crops / pooling:.1f}"],
        ["region pooling and the encoder", f"{pooling + encoder:.2f}", f"{crops / (pooling + encoder):.2f}"],
    ]
    return (
        f"## Time for {found['masks']} masks\n\nOne thread of a CPU, the best of several runs. Who segments with a"
        " model on the same encoder has the embedding already.\n\n" + table(["way", "s", "times as fast"], rows)
    )


def _how(found: Mapping[str, Any]) -> str:
    how, recipe = found["how"], found["how"]["recipe"]
    lines = [
        f"The recipe is the one that ships, with {recipe['epochs']} epochs on drawn tiles, which are looked at without"
        f" the low patch as nothing lies around them. Augmented versions of a tile: {recipe['variants']}"
        f"{_versions(how)}. The last epoch counts. The length of training, its rates and the"
        " share of dropped channels were settled with the real tiles and the folds of one data set in sight, so their"
        " numbers are not quite blind. On a slide of another laboratory the head fails: see"
        " [what was decided](../concepts/decisions.md#no-head-that-names-things-comes-with-the-package).",
        "*Feature-crop* takes the mean of the encoder's two maps under the mask, brings channels to one scale, and"
        " either names the class with the nearest mean or asks a linear model (logistic regression, classes weighted"
        " alike). The last three ways are such a model on the mean and spread of red, green and blue under the mask, on"
        " the size of mask and box, and on the colours of the whole patch.",
        "Names are shuffled once, object by object. What looks alike is named alike all the same, so that the result"
        " is as coarse as a few tosses of a coin, and its interval too narrow.",
        "Sentence vectors are those of all-MiniLM-L6-v2, which has read web pages and seen no image.",
        "No weights of a CLIP can be shipped, so none is measured here: for a vocabulary that is really open, give"
        " `recognise.clip` a network of your own.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)


def _versions(how: Mapping[str, Any]) -> str:
    return f" of drawn ones, {how['variants']} of real ones" if "variants" in how else ""


def _interval(estimate: Sequence[float]) -> str:
    value, low, high = estimate
    return f"{value:.3f} ({low:.3f}–{high:.3f})"
