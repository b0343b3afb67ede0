"""The whole benchmark: from drawn scenes to the dictionary behind the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.granularity.measuring import apart, measure, order_of, order_within, scores_of, true_areas
from benchmarks.granularity.subjects import drawn_scenes
from benchmarks.granularity.tiles import clicked_objects
from benchmarks.granularity.training import MANY, MATCHINGS, ONE, scene_recipe, trained
from benchmarks.nested_scenes import CELL_TYPES, CYTOPLASM, GLAND, LUMEN, NUCLEUS
from wsi_pipeline.training.semantic_sam_batches import LevelBatch
from wsi_pipeline.training.semantic_sam_head import SemanticHead
from wsi_pipeline.training.semantic_sam_recipe import SemanticRecipe
from wsi_pipeline.training.sources import VALIDATION, Joined

STRUCTURES = {
    "glands": (GLAND,),
    "lumens": (LUMEN,),
    "cells": CELL_TYPES,
    "cytoplasms": (CYTOPLASM,),
    "nuclei": (NUCLEUS,),
}


@dataclass(frozen=True, slots=True)
class Options:
    """How much of it.

    Attributes:
        folder: keeps embeddings and networks.
        train, test: scenes to learn from, and to measure on.
        epochs: of training, each with all scenes to learn from.
        seeds: of the networks and of all draws.
        data, weights: annotated tiles and a Semantic-SAM that was trained on them; None for drawn scenes alone.
        changes: to the recipe, by key.
    """

    folder: Path
    train: int = 80
    test: int = 6
    epochs: int = 20
    seeds: Sequence[int] = (0, 1)
    data: Path | None = None
    weights: Path | None = None
    changes: dict[str, Any] = field(default_factory=dict)


class Check(NamedTuple):
    """Something that is wished for.

    Attributes:
        wished: in words.
        measured: the number that it is said of, a mean over seeds.
        reached: whether it came true.
    """

    wished: str
    measured: float
    reached: bool


def run(options: Options) -> dict[str, Any]:
    """Train all networks and measure them.

    Raises:
        WeightsError, OutputError, TrainingError, DatasetError: backbone, folder or tiles cannot be used.
    """
    source = drawn_scenes(options.train, options.test)
    networks = {
        matching: [_measured(matching, seed, source, options) for seed in options.seeds] for matching in MATCHINGS
    }
    recipe = scene_recipe(MANY, options.seeds[0], options.epochs, options.changes)
    shown = _shown(recipe, source, options)
    tiles = None
    if options.data is not None and options.weights is not None:
        tiles = clicked_objects(options.data, options.weights)
    true = np.concatenate([true_areas(part.targets) for part in shown])
    return {
        "train": options.train,
        "test": options.test,
        "pieces": len(shown),
        "clicks": len(shown) * recipe.judged_clicks,
        "seeds": list(options.seeds),
        "recipe": recipe.on_card(),
        "networks": networks,
        "true": {"areas": true.mean(axis=0).tolist(), "order": order_of(true), "within": order_within(true)},
        "tiles": tiles,
    }


def _measured(matching: str, seed: int, source: Joined, options: Options) -> dict[str, Any]:
    """What one network says of the scenes that it did not learn from."""
    recipe = scene_recipe(matching, seed, options.epochs, options.changes)
    one = trained(recipe, source, options.folder / f"{matching}-{seed}", _embeddings(options))
    shown = _shown(recipe, source, options)
    found = measure(one.network, one.levels, shown)
    structures = {
        name: {"masks": len(some.iou), "best_iou": float(some.iou.mean()), "recall": some.recall}
        for name, some in ((name, found.of(*names)) for name, names in STRUCTURES.items())
        if len(some.iou)
    }
    return {
        "steps": one.steps,
        "minutes": one.minutes,
        "levels": one.levels,
        "areas": found.areas.mean(axis=0).tolist(),
        "scores": scores_of(found) | {"apart": apart(one.network, shown[0].seen)},
        "structures": structures,
    }


def _shown(recipe: SemanticRecipe, source: Joined, options: Options) -> list[LevelBatch]:
    """Clicks on the scenes that nobody learned from; the seed of a recipe draws them, so that seeds differ in it."""
    batches = SemanticHead(recipe, torch.device("cpu")).batches(source, _embeddings(options))
    return [part for number in source.numbers(VALIDATION) for part in batches.validation(number)]


def _embeddings(options: Options) -> Path:
    return options.folder / "embeddings"


def mean_scores(networks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the networks of several seeds; the worst of ``apart``."""
    every = [one["scores"] for one in networks]
    means = {name: float(np.mean([one[name] for one in every])) for name in every[0]}
    return means | {"apart": max(one["apart"] for one in every)}


def checks(found: Mapping[str, Any], matching: str) -> list[Check]:
    """What was wished for before anything was measured, and what came of it with one of the matchings."""
    many, one = (mean_scores(found["networks"][name]) for name in (matching, ONE))
    more, off = many["recall"] - one["recall"], abs(many["said"] - many["dice"])
    return [
        Check("recall at least 0.80", many["recall"], many["recall"] >= 0.8),
        Check("and 0.15 more than many-to-one", more, more >= 0.15),
        Check("order of levels and areas: correlation at least 0.8", many["order"], many["order"] >= 0.8),
        Check("mean predicted quality within 0.10 of the true Dice", off, off <= 0.1),
        Check("types of cells named rightly, at least 0.85", many["objects"], many["objects"] >= 0.85),
        Check("parts named rightly, at least 0.85", many["parts"], many["parts"] >= 0.85),
        Check("a click alone and among 200: the same to 0.0001", many["apart"], many["apart"] <= 1e-4),
    ]
