"""What the ways find, as one dictionary."""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from benchmarks.similar.outliers import inject
from benchmarks.similar.subjects import Subject, Tile, drawn_subjects, real_subjects
from benchmarks.similar.ways import MATCHER, SINGLE, WHOLE, Workbench, found_by
from wsi_pipeline.models.matcher.examples import Outline
from wsi_pipeline.models.matcher.settings import MatcherSettings

SEEDS = 20
"""Of the test without images."""
CAREFUL = WHOLE.model_copy(update={"min_presence": MatcherSettings().min_presence})
REFERENCES = 2
"""Examples of drawn tissue that are each tried on their own."""


def run(data: Path | None, embeddings: Path | None) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        data: folder with manifest.csv; None for drawn tissue alone.
        embeddings: folder to keep embeddings in; None for as long as the benchmark runs.
    """
    outcomes = [inject(seed)._asdict() for seed in range(SEEDS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Workbench(embeddings or folder / "embeddings")
        drawn = drawn_subjects(folder)
        real = [] if data is None else real_subjects(data, folder)
        subjects = [_subject(bench, subject) for subject in [*drawn, *real]]
        shots = {subject.name: _shots(bench, subject) for subject in drawn}
        single = {subject.name: _single(bench, subject) for subject in [*drawn, *real[:1]]}
    return {
        "outliers": outcomes,
        "subjects": subjects,
        "shots": shots,
        "single": single,
        "min_presence": MatcherSettings().min_presence,
        "px": WHOLE.grid,
    }


def _subject(bench: Workbench, subject: Subject) -> dict[str, Any]:
    """Overlap of every way on every target, and how often something is found."""
    overlaps: defaultdict[str, list[float]] = defaultdict(list)
    seconds: list[float] = []
    presence: dict[str, list[float]] = {"present": [], "absent": []}
    found: dict[str, list[bool]] = {"present": [], "absent": []}
    mpp = subject.examples[0].mpp
    for example in subject.examples[:REFERENCES]:
        outlines = example.outlines(subject.name)
        look = bench.look(outlines, WHOLE, mpp)
        for name, way in bench.ways(outlines, mpp).items():
            before = process_time()
            masks = [way(tile) for tile in subject.targets]
            overlaps[name] += [overlap(mask, tile) for mask, tile in zip(masks, subject.targets, strict=True)]
            if name == MATCHER:
                seconds.append((process_time() - before) / len(masks))
                presence["present"] += [look(tile).sight.presence for tile in subject.targets]
                found["present"] += [bool(mask.any()) for mask in masks]
            _say(f"{subject.data}, {subject.name}: {name} {np.mean(overlaps[name]):.3f}")
        model = bench.matcher(outlines, CAREFUL)
        presence["absent"] += [look(tile).sight.presence for tile in subject.absent]
        found["absent"] += [bool(found_by(model, tile).any()) for tile in subject.absent]
        _say(f"presence {presence}")
    return {
        "name": subject.name,
        "data": subject.data,
        "targets": len(subject.targets),
        "examples": len(subject.examples[:REFERENCES]),
        "overlaps": overlaps,
        "presence": presence,
        "found": found,
        "seconds": seconds,
    }


def _shots(bench: Workbench, subject: Subject) -> list[float]:
    """Mean overlap with one, two, … examples."""
    found = []
    for count in range(1, len(subject.examples) + 1):
        outlines = [one for example in subject.examples[:count] for one in example.outlines(subject.name)]
        found.append(_mean_overlap(bench, outlines, WHOLE, subject.targets))
        _say(f"{subject.name}, {count} examples: {found[-1]:.3f}")
    return found


def _single(bench: Workbench, subject: Subject) -> dict[str, float]:
    """Mean overlap with the largest object of the first example alone, and with how much of its surroundings known."""
    first = max(subject.examples[0].outlines(subject.name), key=lambda one: one.geometry.area)
    found = {
        name: _mean_overlap(bench, [first], settings, subject.targets)
        for name, settings in (("near", SINGLE), ("all", WHOLE))
    }
    _say(f"{subject.name}, a single object: {found}")
    return found


def _mean_overlap(
    bench: Workbench, outlines: Sequence[Outline], settings: MatcherSettings, targets: Sequence[Tile]
) -> float:
    model = bench.matcher(outlines, settings)
    return float(np.mean([overlap(found_by(model, tile), tile) for tile in targets]))


def overlap(found: np.ndarray, tile: Tile) -> float:
    """IoU of what was found with the truth."""
    truth = tile.patch_labels() > 0
    return float(np.count_nonzero(found & truth) / max(1, np.count_nonzero(found | truth)))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
