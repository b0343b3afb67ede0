"""The page, from the dictionary that the benchmark gives and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages import table
from benchmarks.sam_clip.measuring import LEAST_AREA, THRESHOLD
from benchmarks.sam_clip.study import FORGETFUL, MEAN, MERGED, PROBE, passed
from benchmarks.sam_clip.subjects import LEAST, PATCH

METRICS = {
    "cosine": "cosine",
    "constant_cosine": "of a constant",
    "centred_cosine": "mean-centred",
    "balanced_accuracy": "patch class",
    "together_iou": "map, together",
    "alone_iou": "map, alone",
    "map_iou": "map, both",
    "refined_iou": "refined",
    "dice": "Dice of boxes",
    "minutes": "CPU minutes",
}
NAMES = {
    PROBE: "head alone",
    MEAN: "the same with a mean pool",
    MERGED: "merged",
    FORGETFUL: "merged without rehearsal",
}
EXPECTED = {
    "cosine": "cosine to the teacher at least 0.9",
    "above a constant": "above that of the teacher's mean",
    "centred cosine": "mean-centred cosine at least 0.45",
    "merging keeps the cosine": "merging does not lower the cosine (by 0.005)",
    "merging keeps Dice": "merging costs less than 0.02 Dice of boxes",
    "rehearsal matters": "without rehearsal it costs more",
    "text map above a constant": "mean IoU of the text map above that of a constant map",
    "SAM refines": "SAM's masks raise it by 0.05",
    "tile class as the teacher": "balanced accuracy of the patch class within 0.05 of the teacher's",
}
WHY = {
    "rehearsal matters": "So few small steps hardly change the encoder, and the Dice of both runs is the"
    " same but for chance.",
    "SAM refines": "Where a class fills most of a patch its box is the patch, and SAM has no outline to find in it.",
    "tile class as the teacher": "The classes are of few tiles each, so a few patches are worth the difference; the"
    " cosine says that the head follows the teacher, but not where the teacher itself is in doubt.",
}
"""What is behind expectations that were missed, where it is known."""


def render(found: Mapping[str, Any], command: str) -> str:
    """Markdown.

    Args:
        found: the result of ``study.run``.
        command: what wrote the page.
    """
    parts = [_intro(command), *(_subject(name, one) for name, one in found["subjects"].items()), _how(found)]
    return "\n\n".join(parts) + "\n"


def _intro(command: str) -> str:
    return (
        "# SAM-CLIP\n\nOne encoder that segments and knows what things are called: the published schedule in miniature,"
        " on LiteMedSAM. A head learns from a teacher of images and words what patches mean; then encoder, decoder and"
        f" head are trained together, while SAM rehearses its own answers.\n\n```sh\n{command}\n```\n\nThe command"
        " writes the whole of this page; no number is typed by hand.\n\n"
        "!!! warning\n    The teacher is a small network that learned the classes from the same training tiles, with"
        " their labels. It is no CLIP: the page shows that the schedule works and what it costs, not what words can"
        " find on slides."
    )


def _subject(name: str, found: Mapping[str, Any]) -> str:
    title = name[0].upper() + name[1:]
    rows = (
        [NAMES[one], *(f"{scores[key]:.3f}" if key in scores else "" for key in METRICS)]
        for one, scores in found["scores"].items()
    )
    verdicts = passed(found)
    checks = ([EXPECTED[key], "yes" if good else "**no**"] for key, good in verdicts.items())
    reasons = "".join(f"{WHY[key]}\n\n" for key, good in verdicts.items() if not good and key in WHY)
    return (
        f"## {title}\n\n{found['test']} patches of {found['groups']} tiles that nobody learned from; classes:"
        f" {', '.join(found['classes'])}. The teacher's own balanced accuracy is {found['teacher']:.3f}; a map of the"
        f" most frequent class has a mean IoU of {found['constant_iou']:.3f}. The head's file has"
        f" {found['head']['bytes'] / 1e6:.2f} MB.\n\n"
        f"{table(['trained', *METRICS.values()], rows)}\n\n{table(['expected', 'reached'], checks)}\n\n"
        f"{reasons}{_curve(found)}"
    )


def _curve(found: Mapping[str, Any]) -> str:
    curves = found["curves"]
    lines = [f"{NAMES[name]} {', '.join(f'{loss:.3f}' for loss in curves[name])}" for name in (MERGED, FORGETFUL)]
    return f"Losses of joint training, means of ten steps each: {'; '.join(lines)}. Those of rehearsal count tenfold."


def _how(found: Mapping[str, Any]) -> str:
    how = found["how"]
    lines = [
        f"Patches of {PATCH} px. A patch shows the class of most px of its objects, or the last class where objects"
        f" cover less than {LEAST:.0%} of it; accuracies are balanced over classes.",
        f"The teacher: four convolutions, {how['teacher_steps']} steps on views of training tiles with their labels.",
        f"The head alone: {how['probe_steps']} steps of {how['batch']} patches in {how['variants']} augmented versions,"
        f" on the frozen encoder, rate {how['rate']:g}; it is shown whole patches, halves and quarters of their side,"
        " as the teacher is. LiteMedSAM takes one size of patch, so views are cut from its tokens.",
        f"Joint training: {how['merge_steps']} steps of {how['merge_batch']} patches and {how['objects']} masks of"
        f" each, rate {how['merge_rate']:g} for the head and a tenth of that for the rest; batch norms keep their"
        " statistics.",
        "The cosine is that of what the head and what the teacher say of a patch; a constant says the mean of what the"
        " teacher says of training patches; the mean-centred cosine compares what both say without their own mean.",
        f"Text maps: mean IoU over classes and all px of pieces of at least {LEAST_AREA:.0f} px whose px are at least"
        f" {THRESHOLD:g} probable. Refined: the same pieces as SAM draws them in their boxes, where"
        " it is in doubt with a look at the map. Where a class was not annotated on a tile, it is not looked for.",
        "Map, *together*: each token has attended to all others, as published; *alone*: it is read by itself; *both*,"
        " the default of `shape.places`: the mean of the two, which was chosen with a look at these numbers. What is"
        " expected of the text map is expected of the last one.",
        "Dice of boxes: of what the decoder draws in the true box of each object. That of *head alone* is that of"
        " LiteMedSAM.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)
