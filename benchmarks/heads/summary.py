"""All numbers of the page as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.heads.prompts import BOXES, SEED, TIGHT, Way
from benchmarks.heads.scores import METRICS, Scores
from benchmarks.heads.tiles import NUCLEI, REGIONS, AskedPatch
from wsi_pipeline.evaluation.aggregate import (
    REPLICATES,
    Estimate,
    bootstrap_weights,
    differences,
    mean_over_images,
)

ALL = "all"


@dataclass(frozen=True, slots=True)
class Objects:
    """What the N objects are, in the order of ``Scores``.

    Attributes:
        kinds, families, groups: (N,) str, as of ``AnnotatedTile``.
    """

    kinds: np.ndarray
    families: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, patches: Iterable[AskedPatch]) -> Objects:
        rows = [(p.tile.kind, p.tile.family.name, p.tile.group) for p in patches for _ in p.labels]
        return cls(*np.array(rows, str).reshape(-1, 3).T)

    def sets(self) -> dict[str, np.ndarray]:
        """(N,) bool by the name of the set: each kind, then the families, then all."""
        kinds = {kind: self.kinds == kind for kind in dict.fromkeys(self.kinds.tolist())}
        families = {name: self.families == name for name in (NUCLEI, REGIONS) if (self.families == name).any()}
        return {**kinds, **families, ALL: np.ones(len(self.kinds), bool)}


@dataclass(frozen=True, slots=True)
class Measure:
    """One number by which heads are compared: the mean over objects of the mean over ways of asking.

    Attributes:
        name: of tables.
        family: which objects; ``ALL`` for all.
        ways: how they were asked about.
        metric: one of ``METRICS``.
    """

    name: str
    family: str
    ways: tuple[Way, ...]
    metric: str

    def inside(self, objects: Objects) -> np.ndarray:
        """(N,) bool: the objects it is about."""
        return objects.families == self.family if self.family != ALL else np.ones(len(objects.families), bool)

    def of(self, scores: Scores, inside: np.ndarray) -> np.ndarray:
        """(n,) float64 of the objects inside."""
        column = METRICS.index(self.metric)
        values: np.ndarray = np.mean([scores[way.name][inside, column] for way in self.ways], axis=0)
        return values


MEASURES = (
    Measure("Dice, nuclei", NUCLEI, (TIGHT,), "dice"),
    Measure("boundary IoU, all", ALL, BOXES, "boundary_iou"),
    Measure("narrow boundary IoU, all", ALL, BOXES, "narrow_boundary_iou"),
    Measure("Dice, glands and regions", REGIONS, (TIGHT,), "dice"),
)


def means(scores: Scores, objects: Objects) -> dict[str, Any]:
    """Means over objects: way → set → metric."""
    return {
        way: {
            name: dict(zip(METRICS, values[inside].mean(axis=0).round(6).tolist(), strict=True))
            for name, inside in objects.sets().items()
        }
        for way, values in scores.items()
    }


def measured(scores: Scores, objects: Objects) -> dict[str, float]:
    """The value of each measure whose objects there are."""
    return {
        measure.name: round(float(measure.of(scores, inside).mean()), 6)
        for measure in MEASURES
        if (inside := measure.inside(objects)).any()
    }


def compared(base: Scores, other: Scores, objects: Objects) -> dict[str, list[float | None]]:
    """By measure, ``other`` minus ``base`` as ``[value, low, high]``.

    The 95 % intervals are from a paired bootstrap that draws whole groups; None where there is one group.
    """
    found = {}
    for measure in MEASURES:
        inside = measure.inside(objects)
        if inside.any():
            groups = objects.groups[inside].tolist()
            found[measure.name] = _plain(paired(measure.of(base, inside), measure.of(other, inside), groups))
    return found


def paired(base: np.ndarray, other: np.ndarray, groups: Sequence[str]) -> Estimate:
    """Mean of ``other`` minus mean of ``base``, both (n,) of the same objects, with their groups."""
    weights = bootstrap_weights(groups, REPLICATES, SEED)
    first, second = (mean_over_images([{"": value} for value in values.tolist()], weights) for values in (base, other))
    return differences(first, second, len(set(groups)))[""]


def counted(objects: Objects) -> dict[str, dict[str, int]]:
    """Objects and groups of each set."""
    return {
        name: {"objects": int(inside.sum()), "groups": len(set(objects.groups[inside].tolist()))}
        for name, inside in objects.sets().items()
    }


def summarise(results: Mapping[str, Scores], bases: Sequence[str], objects: Objects) -> dict[str, Any]:
    """Means of every subject, and each compared with the bases that stand before it in ``results``."""
    order = list(results)
    return {
        "sets": counted(objects),
        "means": {name: means(scores, objects) for name, scores in results.items()},
        "differences": {
            base: {name: compared(results[base], results[name], objects) for name in order[order.index(base) + 1 :]}
            for base in bases
        },
    }


def _plain(estimate: Estimate) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 6) for value in estimate]
