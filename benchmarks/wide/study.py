"""The whole benchmark: from pictures to the dictionary behind the page."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import save

from benchmarks.heads.prompts import SEED
from benchmarks.heads.study import ELLIPSE
from benchmarks.heads.subjects import BACKBONE, PRECISION, Ellipse, Model, settings_of
from benchmarks.heads.summary import Objects, counted, paired
from benchmarks.heads.tiles import FAMILIES, NUCLEI, REGIONS, SPLIT, read_tiles
from benchmarks.tiles import OVERLAP
from benchmarks.wide.distillation import DECAY, RATE, Distillation
from benchmarks.wide.lessons import SPACINGS, Lesson, Teaching, sources_of
from benchmarks.wide.measuring import Questions, encoding_seconds
from benchmarks.wide.student import SHRINK, student_of
from wsi_pipeline.evaluation.aggregate import CONFIDENCE, REPLICATES
from wsi_pipeline.files import beside
from wsi_pipeline.models.builders import load_sam
from wsi_pipeline.models.resolve import sam_plan
from wsi_pipeline.models.sam import Sam, SamSegmenter
from wsi_pipeline.models.segmenter import BatchedSegmenter

PARTS = (4, 2, 1)
"""The student is measured before training and after these parts of it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes:
        data: folder with a manifest.
        slides: files to learn from besides.
        steps: of training.
        lessons: fields that the teacher answers about.
        limit: most validation objects of a tile; None for all.
        embeddings: folder to keep the teacher's embeddings in, or None.
        weights: where to write the student's encoder, its batch norms folded in, or None.
    """

    data: Path
    slides: Sequence[Path]
    steps: int
    lessons: int
    limit: int | None = None
    embeddings: Path | None = None
    weights: Path | None = None


class Stop(NamedTuple):
    """The student after so many steps.

    Attributes:
        steps: since the beginning.
        loss: the mean over the steps since the last stop; None before the first.
        seconds: CPU time of the steps since the last stop.
        dice: (N,) float64 of the validation objects.
    """

    steps: int
    loss: float | None
    seconds: float
    dice: np.ndarray


def run(options: Options) -> dict[str, Any]:
    """Measure ellipse and teacher, and the student on its way.

    Raises:
        DatasetError, SlideError, ResolutionError: tiles or slides cannot be read.
        WeightsError: the teacher's file is missing or does not fit.
        OutputError: the weights cannot be written.
    """
    tiles = list(read_tiles(options.data))
    teacher = load_sam(sam_plan(settings_of(BACKBONE, None)))
    asked = SamSegmenter(teacher)
    near, far = (Questions(tiles, factor * asked.input_size, options.limit) for factor in (1, SHRINK))
    lessons, teaching_seconds = _lessons(asked, options)
    base = near.dice(BACKBONE, Model(asked, options.embeddings))
    ellipse = near.dice(ELLIPSE, Ellipse())
    distillation = Distillation(student_of(teacher, SEED), lessons, SEED)
    curve = list(_curve(distillation, options.steps, far))
    if options.weights:
        _write_encoder(distillation.averaged(), options.weights)
    rows = {ELLIPSE: ellipse, BACKBONE: base} | {str(stop.steps): stop.dice for stop in curve}
    return {
        "how": _how(options, lessons, asked.input_size),
        "minutes": {"teacher": teaching_seconds / 60, "student": sum(stop.seconds for stop in curve) / 60},
        "sets": counted(near.objects),
        "dice": {name: _means(dice, near.objects) for name, dice in rows.items()},
        "differences": {str(stop.steps): _differences(base, stop.dice, near.objects) for stop in curve},
        "losses": {str(stop.steps): stop.loss for stop in curve},
        "speed": _speed(asked, SamSegmenter(distillation.averaged())),
    }


def stops(steps: int) -> list[int]:
    """Numbers of steps after which the student is measured, ascending."""
    return sorted({0} | {steps // part for part in PARTS})


def _lessons(teacher: BatchedSegmenter, options: Options) -> tuple[list[Lesson], float]:
    """Lessons, and the CPU seconds that they took."""
    begun = time.process_time()
    teacher.encoder.keep_in(options.embeddings)
    lessons = []
    with sources_of(options.data, options.slides) as sources:
        teaching = Teaching(teacher, sources, SEED)
        for number in range(options.lessons):
            print(f"\rlesson {number + 1} of {options.lessons}", end="", file=sys.stderr, flush=True)
            lessons.append(teaching.lesson(number))
    print(file=sys.stderr)
    return lessons, time.process_time() - begun


def _curve(distillation: Distillation, steps: int, questions: Questions) -> Iterator[Stop]:
    for stop in stops(steps):
        begun = time.process_time()
        losses = [distillation.step() for _ in range(stop - distillation.steps)]
        passed = time.process_time() - begun
        loss = float(np.mean(losses)) if losses else None
        student = Model(SamSegmenter(distillation.averaged()), None)
        yield Stop(stop, loss, passed, questions.dice(f"student after {stop} steps, loss {loss}", student))


def _means(dice: np.ndarray, objects: Objects) -> dict[str, float]:
    return {name: float(dice[inside].mean()) for name, inside in objects.sets().items()}


def _differences(base: np.ndarray, dice: np.ndarray, objects: Objects) -> dict[str, list[float]]:
    """By family, Dice minus the teacher's: ``[value, low, high]``, the interval over groups."""
    return {
        name: list(paired(base[inside], dice[inside], objects.groups[inside].tolist()))
        for name, inside in objects.sets().items()
        if name in (NUCLEI, REGIONS)
    }


def _how(options: Options, lessons: Sequence[Lesson], size: int) -> dict[str, Any]:
    return {
        "split": SPLIT,
        "size": size,
        "shrink": {name: family.shrink for name, family in FAMILIES.items()},
        "limit": options.limit,
        "steps": options.steps,
        "lessons": len(lessons),
        "answers": sum(len(lesson.boxes) for lesson in lessons),
        "slides": [path.name for path in options.slides],
        "spacings": SPACINGS,
        "rate": RATE,
        "decay": DECAY,
        "precision": PRECISION,
        "bootstrap": {"replicates": REPLICATES, "seed": SEED, "confidence": CONFIDENCE},
    }


def _speed(teacher: BatchedSegmenter, student: BatchedSegmenter) -> dict[str, float]:
    """How many times as fast the student's encoder is, and what a patch of it costs in patches of the teacher's.

    Returns:
        ``patch``; ``px``, per px of the patches; and ``run``, per px of a slide, as patches overlap in a run.
    """
    slow, fast = encoding_seconds([teacher, student])
    sides = [(one.input_size, one.input_size - OVERLAP) for one in (teacher, student)]
    area, step = (float(wide**2 / narrow**2) for narrow, wide in zip(*sides, strict=True))
    return {"patch": fast / slow, "px": slow / fast * area, "run": slow / fast * step}


def _write_encoder(student: Sam, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in student.image_encoder.state_dict().items()}
    with beside(path) as partial:
        partial.write_bytes(save(state))
